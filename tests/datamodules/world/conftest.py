"""Lightning can be imported by the tests beside this file, whichever of them runs first."""

from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
