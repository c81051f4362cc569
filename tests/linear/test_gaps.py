"""Short gaps are bridged."""

import numpy as np
import torch

from darts_msft.linear.gaps import BRIDGED, bridge, bridge_array


def test_a_line_leads_over_a_short_gap_and_the_last_value_goes_on() -> None:
    gap = np.nan
    values = [[gap, 1.0, gap, gap, 4.0, np.inf, 2.0, 5.0, gap, gap]]
    expected = [[gap, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0]]
    np.testing.assert_allclose(bridge_array(np.array(values)[..., None])[..., 0], expected)


def test_a_long_gap_stays_in_each_window_and_component_by_itself() -> None:
    values = torch.arange(40.0).repeat(2, 2, 1).mT.contiguous()
    whole = values.clone()
    values[0, 10 : 10 + BRIDGED, 0] = torch.nan
    values[1, 10 : 11 + BRIDGED, 1] = torch.nan
    values[1, 39 - BRIDGED :, 0] = torch.nan
    found = bridge(values)
    torch.testing.assert_close(found[0], whole[0])
    assert torch.equal(found[1], values[1]) or torch.equal(found[1].nan_to_num(-1), values[1].nan_to_num(-1))
    assert found[1].isnan().sum() == 2 * (BRIDGED + 1)


def test_nothing_at_all_stays_nothing() -> None:
    assert bridge(torch.full((1, 5, 1), torch.nan)).isnan().all()
    assert bridge(torch.zeros(2, 0, 1)).shape == (2, 0, 1)
