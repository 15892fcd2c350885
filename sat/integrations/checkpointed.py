"""A sparsified training inside a framework that saves and loads model and optimizer itself."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from sat.checkpoint import load_progress, save_progress
from sat.controller import Controller


class Checkpointed:
    """From now on ``state_dict`` and ``load_state_dict`` of model and optimizer speak of the plain, full model.

    What the framework writes is then what a dense training would write, at any step, and what it reads back is
    spread over active part and bank. The controller's own progress (plain values) is this object's ``state_dict``;
    load it after model and optimizer, and the training goes on bit for bit. Both revert with ``sat.densify_``.

    >>> accelerator.register_for_checkpointing(Checkpointed(controller))

    A saved tensor may share memory with the training's, as those of a plain ``state_dict`` do: write it before the
    next step, or copy it.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._resting: list[tuple[int, ...]] | None = None  # active units while something is being loaded
        model = controller.model
        model.__dict__["state_dict"] = self._model_state
        handles = [
            model.register_load_state_dict_pre_hook(lambda *_: self._fill()),  # type: ignore[no-untyped-call]
            model.register_load_state_dict_post_hook(lambda *_: self._empty()),  # type: ignore[no-untyped-call]
        ]
        if controller.optimizer is not None:
            handles += [
                controller.optimizer.register_state_dict_post_hook(self._optimizer_state),
                controller.optimizer.register_load_state_dict_pre_hook(lambda *_: self._fill()),
                controller.optimizer.register_load_state_dict_post_hook(lambda *_: self._empty()),
            ]

        def remove() -> None:
            model.__dict__.pop("state_dict", None)
            for handle in handles:
                handle.remove()

        controller.at_finish(remove)

    def state_dict(self) -> dict[str, Any]:
        """The controller's progress: plain values."""
        return save_progress(self.controller)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the framework has loaded model and optimizer.

        Raises:
            ValueError: the state is of another configuration, length or structure.
        """
        load_progress(self.controller, state)

    def _model_state(self, *args: Any, **kwargs: Any) -> Any:
        model = self.controller.model
        with self.controller.plain():
            return type(model).state_dict(model, *args, **kwargs)

    def _optimizer_state(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        if self.controller.is_plain:
            return None
        with self.controller.plain():
            full = optimizer.state_dict()
            # its inner dictionaries are the optimizer's own, which go back to the active part in a moment
            return {**full, "state": {index: dict(held) for index, held in full["state"].items()}}

    def _fill(self) -> None:
        """What is loaded is plain and full: so must be what it is loaded into."""
        if self.controller.is_plain:
            raise ValueError("inside sat.plain nothing can be loaded; load outside it")
        self._resting = [part.active for part in self.controller.parts]
        for part in self.controller.parts:
            part.switch(tuple(range(part.units)))

    def _empty(self) -> None:
        assert self._resting is not None, "a load ends that never began"
        for part, active in zip(self.controller.parts, self._resting, strict=True):
            part.switch(active)
        self._resting = None
