//! The records of the queues (storage-design.md 5.3), in the bytes that `storage-format.md` lists.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::api::{JobState, JournalRecord, LastStatus, NewJob, Partition, Status};
use crate::storage::{StorageError, codec};

/// A job without its payload, which follows as a raw tail of `payload_bytes`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobHead<'a> {
    pub uuid: [u8; 16],
    pub created_us: i64,
    pub partition: u32,
    pub event_count: u32,
    #[serde(borrow)]
    pub user_id: &'a str,
    #[serde(borrow, with = "serde_bytes")]
    pub parameters: &'a [u8],
    /// Named consumers; empty means the queue's only one.
    #[serde(borrow)]
    pub consumers: Vec<&'a str>,
    pub payload_bytes: u32,
}

/// One entry of the index: what picking needs to know without reading the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexEntry {
    pub dataset: u32,
    pub events: u32,
    pub bytes: u32,
    /// Hash of workspace, destination and user; 0 where order does not matter.
    pub order_hash: u64,
    pub created_ms: i64,
    /// 0 = there is no status record.
    pub attempt: u32,
}

/// A run of consecutive jobs, dropped as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DatasetRecord {
    pub first_job_id: u64,
    pub last_job_id: u64,
    pub created_ms: i64,
    /// 0 = open.
    pub sealed_ms: i64,
    pub rows: u64,
    pub pending: u64,
    pub bytes: u64,
    pub pending_bytes: u64,
    /// 0 normal, 1 carry-over.
    pub kind: u8,
}

/// What must outlive every dataset of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueRecord {
    pub last_job_id: u64,
    pub next_dataset: u32,
    pub next_carry_over: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct PartitionRecord<'a> {
    workspace_id: &'a str,
    custom_val: &'a str,
    source_id: &'a str,
    destination_id: &'a str,
}

#[derive(Debug, Serialize, Deserialize)]
struct StatusRecord<'a> {
    state: u8,
    attempt: u32,
    exec_ms: i64,
    retry_ms: i64,
    error_code: &'a str,
    #[serde(with = "serde_bytes")]
    error_response: &'a [u8],
    #[serde(with = "serde_bytes")]
    parameters: &'a [u8],
    consumer: &'a str,
}

#[derive(Debug, Serialize, Deserialize)]
struct JournalBody<'a> {
    operation: &'a str,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    start_ms: i64,
}

/// The bytes of a job: head, then the pieces of its payload.
pub(super) fn encode_job(job: &NewJob<'_>, partition: u32, created_us: i64, payload_bytes: u32) -> Vec<u8> {
    let payload: usize = job.payload.iter().map(|piece| piece.len()).sum();
    let mut value = Vec::with_capacity(payload + job.parameters.len() + job.user_id.len() + 64);
    let head = JobHead {
        uuid: *job.uuid.as_bytes(),
        created_us,
        partition,
        event_count: job.event_count.max(1),
        user_id: job.user_id,
        parameters: job.parameters,
        consumers: Vec::new(),
        payload_bytes,
    };
    codec::encode_into(&mut value, &head);
    for piece in job.payload {
        value.extend_from_slice(piece);
    }
    value
}

/// Reads a job's head and the offset of its payload, which must reach exactly to the end of the value.
pub(super) fn decode_job(value: &[u8]) -> Result<(JobHead<'_>, usize), StorageError> {
    let (head, offset) = codec::decode_head::<JobHead<'_>>("job", value)?;
    let expected = offset.checked_add(head.payload_bytes as usize);
    if expected != Some(value.len()) {
        return Err(StorageError::Corrupt {
            what: format!("job {}", Uuid::from_bytes(head.uuid)),
            reason: format!(
                "payload of {} bytes announced, {} there",
                head.payload_bytes,
                value.len().saturating_sub(offset)
            ),
        });
    }
    Ok((head, offset))
}

pub(super) fn encode_partition(partition: &Partition) -> Vec<u8> {
    codec::encode(&PartitionRecord {
        workspace_id: &partition.workspace_id,
        custom_val: &partition.custom_val,
        source_id: &partition.source_id,
        destination_id: &partition.destination_id,
    })
}

pub(super) fn decode_partition(id: u32, value: &[u8]) -> Result<Partition, StorageError> {
    let record: PartitionRecord<'_> = codec::decode("partition", value)?;
    Ok(Partition {
        id,
        workspace_id: record.workspace_id.to_owned(),
        custom_val: record.custom_val.to_owned(),
        source_id: record.source_id.to_owned(),
        destination_id: record.destination_id.to_owned(),
    })
}

pub(super) fn encode_status(state: JobState, status: &Status) -> Vec<u8> {
    codec::encode(&StatusRecord {
        state: state as u8,
        attempt: status.attempt,
        exec_ms: status.exec_ms,
        retry_ms: status.retry_ms,
        error_code: &status.error_code,
        error_response: &status.error_response,
        parameters: &status.parameters,
        consumer: "",
    })
}

pub(super) fn decode_status(value: &[u8]) -> Result<LastStatus, StorageError> {
    let record: StatusRecord<'_> = codec::decode("status", value)?;
    let state = match record.state {
        1 => JobState::Failed,
        4 => JobState::Importing,
        5 => JobState::Succeeded,
        6 => JobState::Aborted,
        7 => JobState::Filtered,
        8 => JobState::Migrated,
        other => {
            return Err(StorageError::Corrupt {
                what: "status".to_owned(),
                reason: format!("state {other} is unknown"),
            });
        }
    };
    Ok(LastStatus {
        state,
        status: Status {
            attempt: record.attempt,
            exec_ms: record.exec_ms,
            retry_ms: record.retry_ms,
            error_code: record.error_code.to_owned(),
            error_response: record.error_response.to_vec(),
            parameters: record.parameters.to_vec(),
        },
    })
}

pub(super) fn encode_journal(record: &JournalRecord) -> Vec<u8> {
    codec::encode(&JournalBody { operation: &record.operation, payload: &record.payload, start_ms: record.start_ms })
}

pub(super) fn decode_journal(op: u64, value: &[u8]) -> Result<JournalRecord, StorageError> {
    let body: JournalBody<'_> = codec::decode("journal", value)?;
    Ok(JournalRecord {
        op,
        operation: body.operation.to_owned(),
        payload: body.payload.to_vec(),
        start_ms: body.start_ms,
    })
}

/// The hash under which jobs of one user and destination keep their order. Never 0.
pub(super) fn order_hash(salt: u64, workspace_id: &str, destination_id: &str, user_id: &str) -> u64 {
    let mut text = Vec::with_capacity(workspace_id.len() + destination_id.len() + user_id.len() + 2);
    text.extend_from_slice(workspace_id.as_bytes());
    text.push(0);
    text.extend_from_slice(destination_id.as_bytes());
    text.push(0);
    text.extend_from_slice(user_id.as_bytes());
    xxh3_64_with_seed(&text, salt).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::runs::RunRecord;
    use super::*;

    #[test]
    fn a_job_has_the_documented_bytes_and_is_read_back() {
        let uuid = Uuid::from_bytes([7; 16]);
        let job = NewJob {
            uuid,
            workspace_id: "w",
            custom_val: "GW",
            source_id: "s",
            destination_id: "",
            user_id: "u",
            parameters: b"{}",
            payload: &[b"ab", b"c"],
            event_count: 1,
        };
        let value = encode_job(&job, 3, 1, 3);
        let mut expected = vec![1];
        expected.extend([7; 16]);
        expected.extend([2, 3, 1, 1, b'u', 2, b'{', b'}', 0, 3, b'a', b'b', b'c']);
        assert_eq!(value, expected);
        let (head, offset) = decode_job(&value).unwrap();
        assert_eq!((head.user_id, head.parameters, &value[offset..]), ("u", &b"{}"[..], &b"abc"[..]));
        assert!(decode_job(&value[..value.len() - 1]).is_err(), "a short payload is damage");
        assert!(decode_job(b"").is_err());
    }

    #[test]
    fn the_other_records_have_the_documented_bytes() {
        let entry = IndexEntry { dataset: 1, events: 2, bytes: 300, order_hash: 5, created_ms: -1, attempt: 0 };
        assert_eq!(codec::encode(&entry), [1, 1, 2, 0xfb, 0x2c, 0x01, 5, 1, 0]);
        let dataset = DatasetRecord {
            first_job_id: 1,
            last_job_id: 2,
            created_ms: 3,
            sealed_ms: 0,
            rows: 2,
            pending: 1,
            bytes: 9,
            pending_bytes: 4,
            kind: 1,
        };
        assert_eq!(codec::encode(&dataset), [1, 1, 2, 6, 0, 2, 1, 9, 4, 1]);
        let queue = QueueRecord { last_job_id: 251, next_dataset: 2, next_carry_over: CARRY };
        assert_eq!(codec::encode(&queue), [1, 0xfb, 251, 0, 2, 0xfc, 0, 0, 0, 0x80]);
        let status = Status {
            attempt: 1,
            exec_ms: 2,
            retry_ms: 3,
            error_code: "500".to_owned(),
            error_response: b"{}".to_vec(),
            parameters: Vec::new(),
        };
        let bytes = encode_status(JobState::Failed, &status);
        assert_eq!(bytes, [1, 1, 1, 4, 6, 3, b'5', b'0', b'0', 2, b'{', b'}', 0, 0]);
        assert_eq!(decode_status(&bytes).unwrap(), LastStatus { state: JobState::Failed, status });
        assert!(decode_status(&[1, 2, 1, 4, 6, 0, 0, 0, 0]).is_err(), "state 2 is reserved");
        let partition = Partition {
            id: 9,
            workspace_id: "w".to_owned(),
            custom_val: "GW".to_owned(),
            source_id: "s".to_owned(),
            destination_id: String::new(),
        };
        let bytes = encode_partition(&partition);
        assert_eq!(bytes, [1, 1, b'w', 2, b'G', b'W', 1, b's', 0]);
        assert_eq!(decode_partition(9, &bytes).unwrap(), partition);
        let journal = JournalRecord { op: 4, operation: "m".to_owned(), payload: vec![0], start_ms: 1 };
        let bytes = encode_journal(&journal);
        assert_eq!(bytes, [1, 1, b'm', 1, 0, 2]);
        assert_eq!(decode_journal(4, &bytes).unwrap(), journal);
    }

    const CARRY: u32 = 0x8000_0000;

    #[test]
    fn the_golden_bytes_are_those_of_the_format_description() {
        let page = include_str!("../../storage-format.md");
        let golden: Vec<&str> = page.split("### Golden bytes").nth(1).unwrap().lines().collect();
        let documented = |record: &str| -> String {
            let row = golden.iter().find(|line| line.starts_with(&format!("| {record} |"))).unwrap();
            row.rsplit('`').nth(1).unwrap().replace(' ', "")
        };
        let job = NewJob {
            uuid: Uuid::from_bytes([7; 16]),
            workspace_id: "",
            custom_val: "",
            source_id: "",
            destination_id: "",
            user_id: "u",
            parameters: b"{}",
            payload: &[b"abc"],
            event_count: 1,
        };
        let status = Status {
            attempt: 1,
            exec_ms: 2,
            retry_ms: 3,
            error_code: "500".to_owned(),
            error_response: b"{}".to_vec(),
            parameters: Vec::new(),
        };
        let partition = Partition {
            id: 0,
            workspace_id: "w".to_owned(),
            custom_val: "GW".to_owned(),
            source_id: "s".to_owned(),
            destination_id: String::new(),
        };
        let dataset = DatasetRecord {
            first_job_id: 1,
            last_job_id: 2,
            created_ms: 3,
            sealed_ms: 0,
            rows: 2,
            pending: 1,
            bytes: 9,
            pending_bytes: 4,
            kind: 1,
        };
        let entry = IndexEntry { dataset: 1, events: 2, bytes: 300, order_hash: 5, created_ms: -1, attempt: 0 };
        let queue = QueueRecord { last_job_id: 251, next_dataset: 2, next_carry_over: CARRY };
        let journal = JournalRecord { op: 4, operation: "m".to_owned(), payload: vec![0], start_ms: 1 };
        let run = RunRecord { taken_in: 300, out: 2, failed: 1, updated_ms: 4 };
        for (record, bytes) in [
            ("JobRecord", encode_job(&job, 3, 1, 3)),
            ("IndexEntry", codec::encode(&entry)),
            ("DatasetRecord", codec::encode(&dataset)),
            ("QueueRecord", codec::encode(&queue)),
            ("StatusRecord", encode_status(JobState::Failed, &status)),
            ("PartitionRecord", encode_partition(&partition)),
            ("JournalRecord", encode_journal(&journal)),
            ("RunRecord", codec::encode(&run)),
            ("FailedRecord", codec::encode(&400_i64)),
        ] {
            let hex: String =
                bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).map(char::from).collect();
            assert_eq!(hex, documented(record), "{record}");
        }
    }
}
