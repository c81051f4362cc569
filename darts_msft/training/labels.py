"""What the forms of the pretrained model are called in reports, and what the scales' weights learned from in each."""

from __future__ import annotations

from darts_msft.forms import Form

FORM_LABELS = {
    Form.ONE_SCALE: "zero-shot",
    Form.BACKCASTS: "zero-shot, scales weighted by backcasts",
    Form.STACKED: "zero-shot, scales stacked",
    Form.WITH_LINEAR: "zero-shot, scales and linear member stacked",
}
FORM_LEARNING = {
    Form.ONE_SCALE: "one scale",
    Form.BACKCASTS: "backcasts",
    Form.STACKED: "stacking",
    Form.WITH_LINEAR: "stacking",
}
