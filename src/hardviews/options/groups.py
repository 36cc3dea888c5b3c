"""How ``--help`` groups the options of all verbs, and which of them only ``--help-all`` shows."""

GROUPS = {
    "data": "data test_data on labelled labelled_test recipe channels value_range tile frames mean std split data_root "
    "download image_column label_column epoch_images shuffle_bytes decode_size max_batch_bytes max_unreadable "
    "in_memory allow_pipe pixels",
    "network": "backbone init extend extend_schedule checkpoint pretrained",
    "method": "method",
    "views": "plan views crops image_size train_resolution full_resolution_from colour min_contrast crop",
    "selection and scoring": "policy scoring score_resolution score_depth score_once score_network score_every "
    "score_token_keep score_reuse score_chunk select_from select_until",
    "optimisation": "epochs batch_size lr optimizer weight_decay warmup_epochs layer_decay min_lr weight_decay_end "
    "momentum clip clip_mode decay_bias_and_norm grad_accumulation seed max_nonfinite_steps",
    "evaluation": "protocol baselines knn_epochs knn_test knn_bank knn_k knn_temperature blocks cache",
    "comparison": "policies arm seeds baseline equal_epochs equal_time timed_steps",
    "hardware": "devices nodes accelerator precision strategy workers compile channels_last deterministic",
    "output and logging": "out format push_to_hub private json tensorboard wandb telemetry gallery show_channels "
    "keep_epochs checkpoint_steps log_steps",
}

_RARE = (
    "data_root download image_column label_column epoch_images shuffle_bytes decode_size max_batch_bytes in_memory "
    "allow_pipe pixels extend_schedule colour score_network score_every score_token_keep score_reuse score_chunk "
    "select_from select_until full_resolution_from min_lr weight_decay_end momentum clip clip_mode decay_bias_and_norm "
    "grad_accumulation max_nonfinite_steps knn_k knn_temperature knn_bank cache channels_last strategy nodes "
    "keep_epochs checkpoint_steps log_steps gallery timed_steps baseline"
)
RARE = set(_RARE.split())

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names.split()}


def group_of(name: str) -> str | None:
    """The group of an option, by its first part (``backbone.stem`` is of ``backbone``); None for one of a protocol."""
    return _GROUP_OF.get(name.partition(".")[0])
