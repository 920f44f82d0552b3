import numpy as np
import pytest

import minigrad as mg
from chapters.ch03_embeddings import Settings, check_tokens, cosines, learn_letters, main, positions


def test_positions_count_from_each_rows_own_start():
    assert positions(3).tolist() == [0, 1, 2]
    assert positions(2, seen=5).tolist() == [5, 6]
    assert positions(4, key_start=np.array([0, 2])).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert positions(1, seen=4, key_start=np.array([0, 2])).tolist() == [[4], [2]]


def test_check_tokens_refuses_wrong_shapes_and_ids():
    check_tokens(mg.tensor([[0, 4]]), 5)
    with pytest.raises(ValueError, match=r"\(batch, time\), got \(3,\)"):
        check_tokens(mg.tensor([1, 2, 3]), 5)
    with pytest.raises(ValueError, match=r"0\.\.4, got 0\.\.5"):
        check_tokens(mg.tensor([[0, 5]]), 5)
    with pytest.raises(ValueError, match=r"0\.\.4, got -1\.\.2"):
        check_tokens(mg.tensor([[-1, 2]]), 5)
    with pytest.raises(TypeError, match="expected integers, got float32"):
        check_tokens(mg.tensor([[0.5, 1.0]]), 5)


def test_interchangeable_tokens_get_similar_vectors():
    # 0 and 1 are interchangeable: both are followed by 2; 2 is followed by 3; 3 by either 0 or 1.
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 2, 400), np.full(400, 2), np.full(400, 3)], axis=1).ravel()  # (1200,)
    vectors, loss = learn_letters(ids, 4, d_model=8, steps=120, generator=mg.Generator(0))
    near = cosines(vectors)
    assert near[0, 1] > 0.9 > 0.5 > max(near[0, 2], near[0, 3])
    assert loss == pytest.approx(np.log(2) / 3, abs=0.08)  # one prediction in three is uncertain, between two tokens


def test_the_lesson_runs(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the rat ate the oats that the cat had got " * 60)
    main(Settings(data=text, run=tmp_path, quick=True))
    printed = capsys.readouterr().out
    assert "without the table of positions, differ by 0.00" in printed
    assert "with the table of positions, differ by 0.00" not in printed.replace("without", "")
    assert (tmp_path / "figures" / "letters.svg").stat().st_size > 1000
