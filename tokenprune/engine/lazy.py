"""A value that is computed once an object, on its first use, without a lock."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class once(Generic[Value]):  # noqa: N801 a decorator
    """Decorates a method without arguments, whose result then is an attribute of its object.

    `functools.cached_property` does the same under a lock before Python 3.12, and torch.compile cannot trace a lock. Two threads may
    compute the value twice here, so it must not matter which of the two stays.

    Args:
        compute: The method.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> "once[Value]": ...
    @overload
    def __get__(self, owner: object, kind: type | None = None) -> Value: ...
    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Return the value, and keep it where the object looks first from now on."""
        if owner is None:
            return self
        value = self.compute(owner)
        object.__setattr__(owner, self.name, value)  # also of a frozen dataclass
        return value
