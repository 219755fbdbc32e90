"""How a photo becomes an embedding, beyond the models: what a calibration table is bound to."""

from dataclasses import dataclass

from mien.kit.errors import SetupError


@dataclass(frozen=True, slots=True)
class Recipe:
    """The defaults are recipe 1; docs/decisions has the numbers behind them.

    `detect_px`: the long side that a photo is fitted to for detection. `magnify`: the most that a
    smaller photo is enlarged for it: landmarks of larger faces are more exact, also where no detail is
    added (LFW's 250 px photos at 640 against 250: d' 5.91 and 5.60, decisions/0003). `refine`: look
    again at each face close up, for better landmarks. `flip`: add the vector of the mirrored face.
    """

    detect_px: int = 640
    magnify: float = 4.0
    refine_px: int = 48
    flip: bool = False

    def __post_init__(self) -> None:
        if self.detect_px < 64 or self.detect_px % 32 or self.magnify < 1.0:
            raise SetupError("A recipe's detection size is a multiple of 32 from 64, its magnification >= 1.")
