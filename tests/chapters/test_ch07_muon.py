import json

import numpy as np
import pytest

from chapters.ch07_muon import Settings, draw, first_step_below, main, orthogonal
from chapters.support.run_folder import History


def test_orthogonal_has_singular_values_of_one():
    matrix = np.random.default_rng(0).standard_normal((5, 9))
    made = orthogonal(matrix)
    np.testing.assert_allclose(made @ made.T, np.eye(5), atol=1e-12)
    assert np.linalg.norm(made - matrix) < np.linalg.norm(made + matrix)


def test_the_command_trains_twice_and_compares(tmp_path, capsys):
    main(Settings(steps=3, run=tmp_path, quick=True, seed=1))
    printed = capsys.readouterr().out
    assert "singular values of the gradient of a matrix (512, 128)" in printed and "AdamW's loss after 30 steps" in printed
    assert (tmp_path / "figures" / "optimizers.svg").stat().st_size > 1000
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("adamw", "muon")
    ]
    assert losses[0][0] == losses[1][0] and losses[0][-1] != losses[1][-1]  # the same start, another path


@pytest.mark.parametrize("level, step", [(5.0, 1), (2.9, 3), (0.5, None)])
def test_first_step_below(level, step):
    assert first_step_below([3.0, 2.0, 1.0], level) == step


def test_both_curves_are_drawn(tmp_path):
    curves = {name: History(steps=[1, 2], losses=[2.0, 1.0]) for name in ("AdamW", "Muon")}
    assert draw(curves, tmp_path / "figure.svg").exists()
