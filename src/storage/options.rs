//! The option sheet of the database (storage-design.md 6.3, 10, 11).

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
    WriteBufferManager,
};

use super::family::Family;
use crate::settings::{Profile, StorageSettings};

const MIB: usize = 1 << 20;

/// Bytes and counts that depend on the memory of the machine.
struct Budget {
    cache: usize,
    memtables: usize,
    jobs_memtable: usize,
    jobs_memtables: i32,
    index_memtable: usize,
    open_files: i32,
    log: u64,
}

fn budget(profile: Profile) -> Budget {
    match profile {
        Profile::Small => Budget {
            cache: 32 * MIB,
            memtables: 32 * MIB,
            jobs_memtable: 8 * MIB,
            jobs_memtables: 2,
            index_memtable: 4 * MIB,
            open_files: 256,
            log: 64 << 20,
        },
        Profile::Default => Budget {
            cache: 128 * MIB,
            memtables: 96 * MIB,
            jobs_memtable: 32 * MIB,
            jobs_memtables: 2,
            index_memtable: 8 * MIB,
            open_files: 1_000,
            log: 256 << 20,
        },
        Profile::Large => Budget {
            cache: 1_024 * MIB,
            memtables: 384 * MIB,
            jobs_memtable: 64 * MIB,
            jobs_memtables: 4,
            index_memtable: 8 * MIB,
            open_files: 4_000,
            log: 256 << 20,
        },
    }
}

pub(super) fn open(path: &Path, settings: &StorageSettings) -> Result<DB, rocksdb::Error> {
    let (options, families) = descriptors(settings);
    DB::open_cf_descriptors(&options, path, families)
}

pub(super) fn open_read_only(path: &Path, settings: &StorageSettings) -> Result<DB, rocksdb::Error> {
    let (mut options, families) = descriptors(settings);
    options.create_if_missing(false);
    DB::open_cf_descriptors_read_only(&options, path, families, false)
}

fn descriptors(settings: &StorageSettings) -> (Options, Vec<ColumnFamilyDescriptor>) {
    let budget = budget(settings.profile);
    let cache = Cache::new_lru_cache(budget.cache);
    // One number bounds memtables and blocks. The manager must be set on the database and on every family.
    let manager = WriteBufferManager::new_write_buffer_manager_with_cache(budget.memtables, false, cache.clone());

    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_manager(&manager);
    options.set_max_open_files(budget.open_files);
    options.set_max_background_jobs(2);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_recycle_log_file_num(2);
    options.set_max_total_wal_size(budget.log);
    options.set_wal_bytes_per_sync(0);
    options.set_bytes_per_sync(MIB as u64);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(3);
    options.set_max_log_file_size(8 * MIB);
    options.set_max_manifest_file_size(64 * MIB);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);

    let families = Family::ALL
        .into_iter()
        .map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, settings, &budget, &cache, &manager))
        })
        .collect();
    (options, families)
}

fn family_options(
    family: Family,
    settings: &StorageSettings,
    budget: &Budget,
    cache: &Cache,
    manager: &WriteBufferManager,
) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_format_version(6);
    blocks.set_checksum_type(ChecksumType::XXH3);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.set_write_buffer_manager(manager);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_level_zero_slowdown_writes_trigger(20);
    options.set_level_zero_stop_writes_trigger(36);

    let (memtable, file, base, compaction, block) = match family {
        Family::Jobs => (budget.jobs_memtable, 32 * MIB, 256 * MIB, 256 * MIB, 32 << 10),
        Family::Index => (budget.index_memtable, 8 * MIB, 32 * MIB, 64 * MIB, 8 << 10),
        Family::Status => (4 * MIB, 8 * MIB, 32 * MIB, 64 * MIB, 8 << 10),
        Family::Dedup => (4 * MIB, 16 * MIB, 64 * MIB, 128 * MIB, 4 << 10),
        Family::Records => (8 * MIB, 8 * MIB, 32 * MIB, 64 * MIB, 8 << 10),
        Family::Meta => (2 * MIB, 2 * MIB, 8 * MIB, 16 * MIB, 4 << 10),
    };
    options.set_write_buffer_size(memtable);
    options.set_target_file_size_base(file as u64);
    options.set_max_bytes_for_level_base(base as u64);
    options.set_max_compaction_bytes(compaction as u64);
    blocks.set_block_size(block);

    match family {
        Family::Jobs => {
            options.set_max_write_buffer_number(budget.jobs_memtables);
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
            options.set_bottommost_compression_options(-14, 3, 0, 0, true);
            if settings.blob_min_size > 0 {
                options.set_enable_blob_files(true);
                options.set_min_blob_size(settings.blob_min_size);
                options.set_blob_file_size(64 << 20);
                options.set_blob_compression_type(DBCompressionType::Lz4);
                options.set_enable_blob_gc(true);
                options.set_blob_gc_age_cutoff(0.25);
                options.set_blob_gc_force_threshold(0.5);
            }
        }
        // Finished jobs leave a tombstone each; files full of them are compacted away soon.
        Family::Index => options.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5),
        Family::Dedup => blocks.set_bloom_filter(10.0, false),
        Family::Status | Family::Records | Family::Meta => {}
    }
    options.set_block_based_table_factory(&blocks);
    options
}
