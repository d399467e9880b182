"""What is done about steps that went wrong: skip them, and when too many come in a row, go back.

A step whose loss or gradient is not finite, or whose loss is far above its running mean, is skipped. If the loss does
not come down again, the weights themselves have gone astray, and no number of skipped steps brings them back. Then the
run takes the weights, moments and averages of an earlier checkpoint and goes on with them; steps, data and noise go on
where they are. So what was learned since that checkpoint is given up, as if all those steps had been skipped, the
batches that may have caused it are never seen again, and no number of a step comes twice.

Source: Chowdhery et al. 2022 (PaLM, 2204.02311, section 5.1), who restarted about 100 steps before a spike and skipped
200 to 500 batches.
"""

from dataclasses import dataclass, field


@dataclass
class Spikes:
    """What a run remembers of its bad steps; a part of its checkpoints, so that a resumed run decides the same."""

    bad: int = 0
    """Bad steps in a row, up to the last step."""
    rollbacks: int = 0
    forgiven: int = 0
    """Rollbacks before the newest of `good`: there was progress after them."""
    last: int = 0
    """The step of the last rollback."""
    good: list[int] = field(default_factory=list)
    """Steps of the checkpoints to go back to, oldest first."""

    def saving(self, step: int, every: int, keep: int) -> None:
        """A checkpoint that was due is about to be written: from now on a good one, if all goes well at it.

        After a rollback all must have gone well for as long as from one checkpoint to the next.
        """
        if self.bad == 0 and (not self.last or step - self.last >= every):
            self.good = [*self.good, step][-keep:]
            self.forgiven = self.rollbacks

    def targets(self) -> list[int]:
        """Steps of the checkpoints to go back to, best last.

        The newest; but where that did not help, the damage may be older than it looked: the one before.
        """
        if self.rollbacks > self.forgiven:
            self.good = self.good[:-1] or self.good
        return self.good

    def went_back(self, step: int) -> None:
        """At this step."""
        self.bad, self.last, self.rollbacks = 0, step, self.rollbacks + 1
