"""SETR's progressive upsampling head, as mmsegmentation releases it."""

from __future__ import annotations

from vpbench.tasks.segmentation.dense_head import HeadOptions, Level
from vpbench.tasks.segmentation.setr_head import SETRHead, UpHead, auxiliary_up_heads, doublings


class SETRPup(SETRHead):
    """SETR-PUP: four steps of a 3 x 3 convolution and an enlargement by 2, and three auxiliary heads on earlier blocks.

    On another stride than 16 there are log2(stride) steps. Parameters on ViT-L/16 with 150 classes: 4,171,414 + 3 * 2,990,742.
    """

    title = "SETR-PUP"
    source = "mmsegmentation 1.2.2, configs/_base_/models/setr_pup.py, mmseg/models/decode_heads/setr_up_head.py (Apache-2.0)"

    def build(self, levels: list[Level], options: HeadOptions) -> None:
        """Creates ``decode_head`` on the last map and ``auxiliary_head`` on the others."""
        last = levels[-1]
        self.decode_head = UpHead(last.width, options.width, 3, (2,) * doublings(last.stride), self.classes)
        self.auxiliary_head = auxiliary_up_heads(levels[:-1] if options.auxiliary else (), options.width, 3, self.classes)
