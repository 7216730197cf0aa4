"""Union-find over channels, without any operation."""

from rotated_relu.graph.channel_groups import ChannelGroups


def two_tensors():
    groups = ChannelGroups()
    groups.add("a", (2, 3))
    groups.add("b", (3,))
    return groups


def test_every_position_of_every_dimension_is_a_channel_of_its_own():
    groups = two_tensors()
    groups.solve()
    assert len(set(groups.group_of.tolist())) == 2 + 3 + 3


def test_merged_channels_share_a_group_and_others_do_not():
    groups = two_tensors()
    groups.merge(groups.channels("a", 1), groups.channels("b", 0))
    groups.solve()
    assert groups.along("a", 1).tolist() == groups.along("b", -1).tolist()
    assert len(set(groups.along("b", 0).tolist())) == 3
    assert not set(groups.along("a", 0).tolist()) & set(groups.along("a", 1).tolist())


def test_a_fixed_channel_fixes_its_group_for_the_first_reason():
    groups = two_tensors()
    groups.merge(groups.channels("a", 1), groups.channels("b", 0))
    groups.fix(groups.channels("b", 0)[:1], "first", "who")
    groups.fix(groups.channels("a", 1)[:2], "second")
    groups.solve()
    zero, one, two = groups.along("a", 1).tolist()
    assert groups.fixed == {zero: "first", one: "second"}
    assert groups.fixed_by == {zero: "who", one: None}
    assert two not in groups.fixed
