//! Starting with a real store: the embedded default, the last good copy, the copy that serves.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::last_good::LAST_GOOD;
use super::*;
use crate::jobsdb::Namespace;
use crate::settings::{Profile, Settings};
use crate::storage::Storage;

fn settings(file: &Path) -> Settings {
    let mut settings = Settings::defaults();
    settings.storage.profile = Profile::Small;
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.soft_free = Some(1);
    settings.backend_config.path = file.to_path_buf();
    settings
}

/// One start of a node's configuration on the folder's store; ends when dropped.
struct Started {
    config: BackendConfig,
    jobs: JobsDb,
    stop: CancellationToken,
}

impl Started {
    async fn new(folder: &Path, settings: Settings) -> Result<Started, StartError> {
        let clock = Clock::manual(1_700_000_000_000);
        let storage = Storage::open(&folder.join("data"), &settings.storage, &clock).unwrap();
        let jobs = JobsDb::open(storage, &settings, clock.clone()).unwrap();
        let stop = CancellationToken::new();
        let deps = Deps { jobs: jobs.clone(), settings: Live::new(settings), clock };
        let config = BackendConfig::start(deps, stop.clone()).await?;
        Ok(Started { config, jobs, stop })
    }

    fn workspace_id(&self) -> Option<String> {
        self.config.current().and_then(|snapshot| snapshot.workspaces.keys().next().cloned())
    }

    fn write_key(&self) -> String {
        self.config.current().unwrap().source_by_id["my-app"].write_key.clone()
    }

    async fn stored(&self) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(document) = self.jobs.get(Namespace::Configuration, LAST_GOOD.as_bytes()).unwrap() {
                return String::from_utf8(document).unwrap();
            }
            assert!(tokio::time::Instant::now() < deadline, "the document was not stored in time");
            tokio::task::yield_now().await;
        }
    }

    /// Ends the task and closes the store, so that it can be opened again.
    async fn end(self) {
        let Started { config, jobs, stop } = self;
        stop.cancel();
        let requests = config.requests.unwrap();
        tokio::time::timeout(Duration::from_secs(10), requests.closed()).await.expect("the task ends");
        tokio::task::spawn_blocking(move || jobs.close()).await.unwrap();
    }
}

#[tokio::test]
async fn the_embedded_default_has_the_same_write_key_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workspaceConfig.json");
    let first = Started::new(folder.path(), settings(&file)).await.unwrap();
    assert_eq!(first.config.state().mode, Mode::Embedded);
    let write_key = first.write_key();
    first.end().await;
    let second = Started::new(folder.path(), settings(&file)).await.unwrap();
    assert_eq!(second.write_key(), write_key);
    second.end().await;
}

#[tokio::test]
async fn the_stored_copy_serves_when_the_file_is_broken_or_gone_and_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workspaceConfig.json");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret-value\n").unwrap();
    let document = json!({"workspaceId": "kept", "sources": [{"destinations": [
        {"id": "d", "config": {"password": format!("file:{}", secret.display())}}]}]});
    std::fs::write(&file, document.to_string()).unwrap();

    let first = Started::new(folder.path(), settings(&file)).await.unwrap();
    let password = first.config.current().unwrap().destination_by_id["d"].config["password"].clone();
    assert_eq!(password, "s3cret-value");
    let stored = first.stored().await;
    assert_eq!(stored, document.to_string());
    assert!(!stored.contains("s3cret-value"));
    first.end().await;

    for break_it in
        [|file: &Path| std::fs::write(file, "{").unwrap(), |file: &Path| std::fs::remove_file(file).unwrap()]
    {
        break_it(&file);
        let later = Started::new(folder.path(), settings(&file)).await.unwrap();
        assert_eq!(later.workspace_id().as_deref(), Some("kept"));
        let state = later.config.state();
        assert!(state.from_last_good && state.last_error.is_some() && state.mode == Mode::File, "{state:?}");
        later.end().await;
    }
}

#[tokio::test]
async fn the_stored_copy_has_code_and_plans_and_serves_when_their_folders_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workspaceConfig.json");
    for (path, text) in [("transformations/v1.js", "code"), ("tracking-plans/tp@1.json", "{\"name\": \"plan\"}")] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let document = json!({"workspaceId": "kept", "sources": [{"id": "s",
        "dgSourceTrackingPlanConfig": {"trackingPlan": {"id": "tp", "version": 1}},
        "destinations": [{"id": "d", "enabled": true, "transformations": [{"versionId": "v1"}]}]}]});
    std::fs::write(&file, document.to_string()).unwrap();
    let first = Started::new(folder.path(), settings(&file)).await.unwrap();
    first.stored().await;
    first.end().await;

    std::fs::remove_file(&file).unwrap();
    std::fs::remove_dir_all(folder.path().join("transformations")).unwrap();
    std::fs::remove_dir_all(folder.path().join("tracking-plans")).unwrap();
    let later = Started::new(folder.path(), settings(&file)).await.unwrap();
    let snapshot = later.config.current().unwrap();
    assert_eq!(snapshot.destination_by_id["d"].transformations[0].code.as_ref().unwrap().text, "code");
    let plan = snapshot.source_by_id["s"].tracking_plan.as_ref().unwrap().plan.as_ref().unwrap();
    assert_eq!(plan.document["name"], "plan");
    later.end().await;
}

#[tokio::test]
async fn no_copy_is_kept_when_that_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workspaceConfig.json");
    std::fs::write(&file, json!({"workspaceId": "w"}).to_string()).unwrap();
    let mut settings = settings(&file);
    settings.backend_config.keeps_last_good = false;
    let started = Started::new(folder.path(), settings).await.unwrap();
    started.config.reload().await.unwrap();
    assert!(started.jobs.get(Namespace::Configuration, LAST_GOOD.as_bytes()).unwrap().is_none());
    started.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_document_is_seen_from_outside_while_the_node_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("workspace.json");
    let data = folder.path().join("data");
    let started = Started::new(folder.path(), settings(&file)).await.unwrap();
    assert!(!has_last_good(&data, false).unwrap(), "the embedded default is none");
    last_good::keep(&started.jobs, LAST_GOOD, b"{}".to_vec()).await.unwrap();
    assert!(has_last_good(&data, false).unwrap());
    started.stop.cancel();
    assert!(has_last_good(folder.path(), false).is_err(), "there is no store");
}
