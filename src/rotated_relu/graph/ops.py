"""The operation vocabulary: what each ATen operation is, said once.

Names are those of the captured graph, without namespace and overload: ``conv2d``, ``add``, ``getitem``. An operation
of another library or of the user keeps its namespace (``mylib::relu``), so that it is never taken for torch's own.

The sets say what an operation *is*; what follows from it stands in the tables that are built of them:
:data:`.zero_patterns.table.PATTERNS` (how zeros pass) and :data:`.channel_rules.table.RULES` (which channels belong
together). Users extend both with :func:`.registration.register_operation`.
"""

from __future__ import annotations

from typing import Any


def target_name(target: Any) -> str:
    """Name of what a node calls: ``conv2d`` for torch's own operations, ``mylib::scale`` for all others."""
    packet = getattr(target, "_overloadpacket", target)
    name = str(getattr(packet, "__name__", packet))
    qualified = str(getattr(packet, "_qualified_op_name", ""))
    own = not qualified or qualified.startswith(("aten::", "prims::"))
    return name if own else qualified


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- with weights --------------------------------------------------------------------------------------------------

CONVOLUTIONS = _names("conv1d conv2d conv3d")
TRANSPOSED_CONVOLUTIONS = _names("conv_transpose1d conv_transpose2d conv_transpose3d")
LINEAR = _names("linear")
PRODUCTS = _names("matmul bmm mm")
ADDED_PRODUCTS = _names("addmm baddbmm")  # the first argument is added to the product of the others
BILINEAR = _names("bilinear")
ATTENTION = _names("scaled_dot_product_attention")
RECURRENT = _names("lstm gru rnn_tanh rnn_relu")
RECURRENT_CELLS = _names("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
LOOKUPS = _names("embedding embedding_bag")

# --- one entry to one entry ----------------------------------------------------------------------------------------

# Activations with gate(0) = 0 of one tensor: those that can carry slopes.
GATES = _names("relu relu6 hardtanh gelu silu hardswish mish leaky_relu elu selu celu")
# Copies, casts and reshapes of the bookkeeping kind: same values in the same order and shape in eval mode, and the
# result may share memory with the argument.
IDENTITIES = _names("alias contiguous detach dropout feature_dropout lift_fresh to type_as")
CASTS = _names("to _to_copy type_as float double half bfloat16")
COPIES = IDENTITIES | CASTS | _names("clone alpha_dropout")
# f(0) = 0 whatever the other arguments (hardtanh depends on them).
ZERO_TO_ZERO = (
    (GATES - {"hardtanh"})
    | COPIES
    | _names(
        "tanh tanhshrink softsign softshrink hardshrink sin tan asin atan sinh asinh atanh erf expm1 log1p "
        "sqrt square abs neg sign round floor ceil trunc frac positive nan_to_num lift_fresh_copy real"
    )
)
ZERO_TO_OTHER = _names(
    "sigmoid hardsigmoid exp exp2 cos cosh acos log log2 log10 log_sigmoid softplus rsqrt reciprocal erfc "
    "logical_not bitwise_not isnan isinf isfinite digamma lgamma logit bool int long"
)
# f(0) = 0 or not, as a number among the arguments says.
BOUNDED = _names("hardtanh clamp clip clamp_min clamp_max threshold pow")
SUMS = _names("add sub rsub maximum minimum hypot")
MULTIPLICATIONS = _names("mul")
DIVISIONS = _names("div true_divide")
COMPARISONS = _names("eq ne gt lt ge le logical_and logical_or logical_xor atan2 remainder fmod")
SELECTIONS = _names("where masked_fill addcmul")
ELEMENTWISE = (
    ZERO_TO_ZERO | ZERO_TO_OTHER | BOUNDED | SUMS | MULTIPLICATIONS | DIVISIONS | COMPARISONS | SELECTIONS
)

# --- several entries to one ----------------------------------------------------------------------------------------

BATCH_NORM = _names("batch_norm")
LAYER_NORMS = _names("layer_norm rms_norm")  # over the last dimensions
NORMS = BATCH_NORM | LAYER_NORMS | _names("group_norm instance_norm")
SOFTMAX = _names("softmax log_softmax")
MAX_POOLS = _names("max_pool1d max_pool2d max_pool3d")
ADAPTIVE_MAX_POOLS = _names(
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)  # values and places
AVERAGE_POOLS = _names(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
)
UPSAMPLING = _names(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
    "upsample_trilinear3d upsample_bicubic2d"
)
MEANS = _names("mean sum")
REDUCTIONS = MEANS | _names("amax amin var std logsumexp linalg_vector_norm any all")

# --- rearrangements ------------------------------------------------------------------------------------------------

VIEWS = _names("view reshape _unsafe_view")
PERMUTATIONS = _names("permute transpose swapaxes swapdims t movedim")
SPLITS = _names("chunk split split_with_sizes unbind tensor_split")
CONCATENATIONS = _names("cat concat")
PADS = _names("pad constant_pad_nd")
REFLECTION_PADS = _names("reflection_pad1d reflection_pad2d reflection_pad3d")
REPLICATION_PADS = _names("replication_pad1d replication_pad2d replication_pad3d")
MOVES = _names("roll flip")  # a dimension's entries change places

# --- for the capture -----------------------------------------------------------------------------------------------

# The result may share memory with the first argument.
MAY_ALIAS = (
    IDENTITIES
    | VIEWS
    | PERMUTATIONS
    | (SPLITS - {"tensor_split"})
    | _names(
        "as_strided diagonal expand expand_as flatten getitem narrow pixel_shuffle ravel select slice squeeze "
        "unflatten unfold unsqueeze view_as"
    )
)
# Checks that the export adds; they compute nothing.
CHECKS = _names("_assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range_for_size")
# Only the shape of the argument is read: the result is a constant.
SHAPE_READS = _names("zeros_like ones_like full_like new_zeros new_ones new_full")
