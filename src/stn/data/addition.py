"""MNIST addition: two digits, one to a channel, whose sum is the label (appendix A.1)."""

from dataclasses import dataclass

from torch import Generator, Tensor

from .distort import DISTORTIONS, Drawn, Pose, Task, checked_digits


@dataclass(frozen=True)
class Addition:
    """Several digits, each distorted on its own in a channel of its own.

    The label is their sum (19 classes for two digits), as for every task. The fields of the pose
    have an axis for the digits after that of the batch.

    Args:
        distortion: of each digit, a task of one digit; RTS.
        digits: to an image, and so its channels.

    Reference:
        Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.1.
    """

    distortion: Task = DISTORTIONS["rts"]
    digits: int = 2

    @property
    def canvas(self) -> tuple[int, ...]:
        return self.distortion.canvas

    def __call__(
        self, images: Tensor, generator: Generator, clutter_pool: Tensor | None = None
    ) -> Drawn:
        count = checked_digits(images, self.digits)
        flat = images.flatten(0, 1).unsqueeze(1)
        drawn = self.distortion(flat, generator, clutter_pool)

        def pose() -> Pose:
            return Pose(*(field.unflatten(0, (count, self.digits)) for field in drawn.pose))

        return Drawn(drawn.images.view(count, self.digits, *self.canvas), pose)
