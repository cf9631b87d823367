"""Help in sections: commands by purpose, options by what they set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

STUDY, DATA, NETWORK, TRAINING = "Study", "Data", "Network", "Training"
SEARCH, TRACKING, COMPUTE, OTHER = "Search", "Results and tracking", "Compute", "Options"
SECTIONS = (STUDY, DATA, NETWORK, TRAINING, SEARCH, TRACKING, COMPUTE, OTHER)
FIELDS = {  # section → settings; a setting that is in none is of its study
    DATA: (
        "dataset split_path shots splits val_per_class test_per_class train_per_class split_seed "
        "use_crops val_crops precomputed_crops sizing input_size model_selection data_root "
        "allow_outside decode_budget balance balance_test part samples source_dataset "
        "source_images halves sources targets fine_tune_per_class augment"
    ),
    NETWORK: (
        "architecture source source_architecture model model_folder model_description layers "
        "reduce fold head configuration freeze bn tune trained_on reinit_blocks"
    ),
    TRAINING: (
        "recipe epochs batch_size optimizer learning_rate weight_decay momentum clip_norm "
        "early_stopping stopping keep_epoch head_epochs schedule step_epochs step_factor "
        "classifier_rate rate_decay warmup_epochs layer_decay "
        "label_smoothing ema precision channels_last seed seeds first_seed source_epochs "
        "source_rate gate_rate fine_tune_epochs fine_tune_rate source_dropout replicas fast_sum"
    ),
    SEARCH: "study trials search space sampler pruner objective budget max_kwh storage",
    TRACKING: (
        "store cache mlflow_path run_name tracking require_tracking wait figures form "
        "system_metrics job log_model out corr_dict export register alias refit note "
        "keep_dumps verbose json"
    ),
    COMPUTE: (
        "device workers threads replica_processes timeout dtype watts watts_range grid country"
    ),
}
SECTION_OF = {name: section for section, names in FIELDS.items() for name in names.split()}


def section_of(setting: str) -> str:
    """Return the section of a setting's option."""
    return SECTION_OF.get(setting, STUDY)


class SectionedCommand(TyperCommand):
    """Command whose options are listed in sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each section."""
        arguments, options = [], dict[str, list[Any]]()
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
                continue
            section = getattr(parameter, "rich_help_panel", None) or OTHER
            options.setdefault(section, []).append(record)
        _write(formatter, "Arguments", arguments)
        for section in sorted(options, key=SECTIONS.index):
            _write(formatter, section, options[section])


class SectionedGroup(TyperGroup):
    """Group whose commands are listed in sections."""

    sections: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 — set once, by the app

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each section."""
        for section, names in self.sections.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                if command is not None and not command.hidden:
                    rows.append((name, command.get_short_help_str(formatter.width)))
            _write(formatter, section, rows)


def _write(formatter: Any, title: str, rows: Iterable[Any]) -> None:
    rows = list(rows)
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)
