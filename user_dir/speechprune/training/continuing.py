"""Settings that a run may go on with other values of."""

from __future__ import annotations

_MAY_CHANGE_BY_GROUP = {
    # Saves are not among them: fairseq validates with each, and the best validation counts.
    "checkpoint": (
        *("keep_best_checkpoints", "keep_interval_updates", "keep_interval_updates_pattern"),
        *("keep_last_epochs", "load_checkpoint_on_all_dp_ranks", "no_epoch_checkpoints"),
        *("save_dir", "write_checkpoints_asynchronously"),
    ),
    "common": (
        *("aim_repo", "aim_run_hash", "all_gather_list_size", "azureml_logging", "cpu"),
        *("empty_cache_freq", "log_file", "log_format", "log_interval", "no_progress_bar"),
        *("plasma_path", "profile", "reset_logging", "suppress_crashes", "tensorboard_logdir"),
        *("use_plasma_view", "user_dir", "wandb_project"),
    ),
    "dataset": ("data_buffer_size", "num_workers"),
    "distributed_training": (
        *("bucket_cap_mb", "device_id", "distributed_backend", "distributed_init_method"),
        *("distributed_no_spawn", "distributed_num_procs", "distributed_port"),
        *("distributed_rank", "fast_stat_sync", "find_unused_parameters"),
        *("gradient_as_bucket_view", "heartbeat_timeout", "nprocs_per_node"),
    ),
}
#: Settings that a run may go on with other values of: no result depends on them.
MAY_CHANGE = frozenset(
    f"{group}.{name}" for group, names in _MAY_CHANGE_BY_GROUP.items() for name in names
)
#: Limits that a run may go on to later ones of; none if they are not positive.
LIMITS = (
    *("checkpoint.patience", "optimization.max_epoch", "optimization.max_update"),
    "optimization.stop_time_hours",
)
