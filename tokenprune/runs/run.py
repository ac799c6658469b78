"""One run, resolved: every value that a row depends on, by name and with a type."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenprune.engine.schedule import TARGET
from tokenprune.errors import InvalidConfig
from tokenprune.registry import get, names
from tokenprune.utils.settings import leaves, nearest_setting

if TYPE_CHECKING:
    from tokenprune.engine.selector import Selector
    from tokenprune.tasks.base import Task
    from tokenprune.training.settings import TrainingConfig

NONE = "none"  # name of the selector, treatment and schedule of a dense model
Options = Mapping[str, Any]  # of a plugin, with its `name`


def _no_such(key: str, values: Mapping[str, Any], known: Collection[str]) -> str:
    """Return what to say of a field that does not exist, with the setting that was probably meant."""
    inside = [path.removeprefix(key) for path in leaves({key: values[key]}) if path != key] or [""]
    settings = [path for name in sorted(known) for path in leaves({name: values.get(name)})]
    nearest = next((found for end in inside if (found := nearest_setting(f"{key}{end}", settings))), "")
    return f"there is no setting {key + inside[0]!r}.{nearest} `--cfg job` prints all of them for your choices"


@dataclass(frozen=True, eq=False)
class Run(Mapping[str, Any]):
    """One resolved run; made by `config.resolve`, or from a stored configuration by `Run.of`.

    The fields are those of the schema (`config.RunConfig`), which tells what each means. A run is also a mapping of them, which is how
    tasks, reports and `result.json` read it. Values are not to be changed: `replace` returns a changed copy.
    """

    method: str = "dense"
    label: str = ""
    treatment_labels: Mapping[str, str] = field(default_factory=dict)
    scale: str = "demo"
    experiment: str | None = None
    selector: Options = field(default_factory=dict)
    treatment: Options = field(default_factory=dict)
    schedule: Options = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)
    cls: str = "learned"
    execution: str = "auto"
    backbone: Options = field(default_factory=dict)
    task: Options = field(default_factory=dict)
    data: Options = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = "dense"
    init_weights: str | None = None
    dense: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Mapping[str, Any] = field(default_factory=dict)
    export_weights: str | None = None
    reports: Mapping[str, Any] = field(default_factory=dict)
    with_rows: bool = True
    measure: tuple[str, ...] | list[str] = ()
    seed: int = 0
    results_dir: str = "results"
    validate_only: bool = False
    fresh: float | None = None
    tracking: str = NONE

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Run":
        """Return the run of a mapping of its fields; a run as it is. Fields that are left out take the schema's values.

        Raises:
            InvalidConfig: fields that do not exist; the message names all of them.
        """
        if isinstance(values, Run):
            return values
        known = {f.name for f in fields(cls)}
        unknown = [key for key in values if key not in known]
        if unknown:
            raise InvalidConfig([_no_such(key, values, known) for key in unknown])
        return cls(**values)

    def replace(self, **changes: Any) -> "Run":
        """Return a copy with some fields changed; nothing in it is shared with this run."""
        return replace(copy.deepcopy(self), **changes)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__dataclass_fields__:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return (f.name for f in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]  # its values are mappings

    @property
    def selector_name(self) -> str:
        """Return the selector's name, `none` for a dense model."""
        return self.selector.get("name", NONE)

    @property
    def schedule_name(self) -> str:
        """Return the schedule's name, `none` for a dense model."""
        return self.schedule.get("name", NONE)

    @property
    def treatment_name(self) -> str:
        """Return the treatment's name, `none` for a dense model."""
        return self.treatment.get("name", NONE)

    @property
    def task_name(self) -> str:
        """Return the task's name."""
        return str(self.task.get("name"))

    @property
    def data_name(self) -> str:
        """Return the data set's name."""
        return str(self.data.get("name"))

    @property
    def keep_rate(self) -> Any:
        """Return the schedule's keep rate as it was given, None where the schedule has none."""
        return self.schedule.get("keep_rate")

    @property
    def target_gmac(self) -> Any:
        """Return the cost that the schedule is to meet, as it was given, None where there is none."""
        return self.schedule.get(TARGET)

    @property
    def is_dense(self) -> bool:
        """Tell whether no token is dropped."""
        return self.selector_name == NONE

    @property
    def trains_dense(self) -> bool:
        """Tell whether the dense model that the run starts from has to be trained first."""
        return self.init == "dense" and self.init_weights is None

    @property
    def shown_label(self) -> str:
        """Return what tables call the run."""
        return self.label or self.method

    @cached_property
    def selector_kind(self) -> "type[Selector] | None":
        """Return the selector's class; None for a dense model and for a name that is not registered."""
        return get("selector", self.selector_name) if self.selector_name in names("selector") else None

    @property
    def dial(self) -> tuple[str, float, float] | None:
        """Return the option that sets how many tokens stay, and its ends (`Selector.dial`); None where the schedule does."""
        return None if self.selector_kind is None else self.selector_kind.dial

    @property
    def task_kind(self) -> "type[Task]":
        """Return the task's class.

        Raises:
            UnknownPlugin: there is no such task.
        """
        return get("task", self.task.get("name", "???"))

    @cached_property
    def recipe(self) -> "TrainingConfig":
        """Return how the run is trained.

        Raises:
            InvalidConfig: every setting that does not fit.
        """
        from tokenprune.training.settings import TrainingConfig
        from tokenprune.utils.settings import read_settings

        return read_settings(TrainingConfig, self.training, "training")
