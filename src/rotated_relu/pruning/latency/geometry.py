"""What is known about a layer before its widths are: the key by which a table finds its times."""

from __future__ import annotations

from dataclasses import dataclass, replace

FREE = ("relu", "relu6")


@dataclass(frozen=True)
class LayerGeometry:
    """One kind of operation on one size of tensor, whatever its channels; sizes are per example of the batch.

    Attributes:
        kind: What it computes, one of the keys of ``deploy.latency.probes``: ``conv``, ``linear``, ``add``, ...
        size: Positions of its input: height and width of an image, or the number of tokens; () if there is one alone.
        kernel: Size of the window that moves over the positions; () if there is none.
        stride: Its steps.
        padding: Zeros around the input, on both sides.
        dilation: Distance between the window's entries.
        group: Inputs and outputs of each group of a grouped convolution, (1, 1) if depthwise; () for a dense one.
        norm: Whether a batch norm follows.
        addition: Whether a tensor of the result's shape is added after that.
        activation: Name of the activation that follows with nothing in between; '' for none.
        slopes: Whether channels are multiplied by slopes, or other factors of their own, on the way.
    """

    kind: str
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    group: tuple[int, ...] = ()
    norm: bool = False
    addition: bool = False
    activation: str = ""
    slopes: bool = False

    def exported(self) -> LayerGeometry:
        """The form that is left when norms and slopes are folded into weights, and what is free is dropped.

        Every engine that runs graphs computes ``relu`` while it writes a convolution's result. Slopes behind an
        addition stay: they are read by a layer, into whose weights they could go, and by the next addition.
        """
        stays = self.slopes and (self.addition or self.kind in ("add", "add_constant"))
        free = self.kind in ("conv", "transposed") and self.activation in FREE and not stays
        return replace(self, norm=False, slopes=stays, activation="" if free else self.activation)

    def __str__(self) -> str:
        """In words, for messages and tables: ``conv 3x3 /2 on 32x32 + add + relu``."""
        depthwise = "depthwise " if self.group == (1, 1) else "grouped " if self.group else ""
        words = [f"{depthwise}{self.kind}"]
        if self.kernel:
            words.append("x".join(map(str, self.kernel)))
        if any(step != 1 for step in self.stride):
            words.append(f"/{'x'.join(map(str, dict.fromkeys(self.stride)))}")
        if self.size:
            words.append(f"on {'x'.join(map(str, self.size))}")
        flags = {
            "norm": self.norm,
            "add": self.addition,
            self.activation: self.activation,
            "slopes": self.slopes,
        }
        fused = [word for word, there in flags.items() if there]
        return " + ".join([" ".join(words), *fused])
