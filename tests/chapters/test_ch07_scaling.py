import json

import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_scaling import (
    MACHINES,
    RANKS,
    SHAPES,
    Machine,
    Settings,
    machine_of,
    main,
    memory_bytes,
    parameter_count,
    predict_step,
    ranks_that_wait,
    training_flops,
)

TINY = GPTConfig(vocab_size=50, context=16, n_layer=2, n_head=2, d_model=8)
MEASURED = {"alpha_s": 1e-5, "beta_s_per_byte": 2.0**-31, "flops_per_s": 3e10, "ranks": 2}


def test_parameters_are_those_of_the_model():
    assert parameter_count(TINY) == GPT(TINY, mg.Generator(0)).num_parameters()
    assert parameter_count(SHAPES["GPT-2"]) == 124_439_808


def test_flops_are_those_of_the_products():
    """Every product of the forward pass, a multiplication and an addition for each pair, and twice as many backward."""
    C, T, V, layers = 8, 16, 50, 2
    block = T * C * (3 * C) + T * C * C + 2 * T * C * (4 * C) + 2 * T * T * C  # qkv, projection, MLP, attention
    products = 3 * 2 * (layers * block + T * C * V)
    not_products = 6 * (T * C + layers * (9 * C + 4 * C) + 2 * C) * T  # position table, biases and norms
    assert training_flops(TINY, T) == products + not_products


def test_a_step_of_one_rank_only_computes():
    step = predict_step(TINY, Machine(1e-3, 1e6, 1e9), 1, 64, utilization=0.5)
    assert step.compute == step.seconds == training_flops(TINY, 64) / 5e8
    assert step.communication == step.waiting == 0 and step.efficiency == 1


def test_communication_follows_the_formula_of_the_ring():
    machine, n = Machine(1e-3, 1e6, 1e9), 4 * parameter_count(TINY)
    step = predict_step(TINY, machine, 8, 64)
    assert step.communication == step.waiting == pytest.approx(2 * 7 * (1e-3 + n / 8 / 1e6), rel=1e-12)
    assert step.seconds == step.compute + step.waiting


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [1, 1000, 1_000_000])
def test_only_the_backward_pass_hides_communication(overlap, tokens):
    step = predict_step(TINY, Machine(1e-4, 1e7, 1e9), 4, tokens, overlap=overlap)
    assert step.waiting == pytest.approx(max((1 - overlap) * step.communication, step.communication - step.compute * 2 / 3))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_efficiency_falls_with_ranks_and_rises_with_tokens_bandwidth_and_overlap(name, machine):
    def efficiency(ranks=8, tokens=4096.0, machine=machine, overlap=0.0):
        return predict_step(SHAPES[name], machine, ranks, tokens, overlap=overlap).efficiency

    weak = [efficiency(N) for N in RANKS]
    strong = [efficiency(N, 524_288 / N) for N in RANKS]
    assert weak == sorted(weak, reverse=True) and strong == sorted(strong, reverse=True)
    assert weak[0] == strong[0] == 1 and strong[-1] < weak[-1]
    assert efficiency(tokens=8192.0) > efficiency() > efficiency(machine=machine._replace(bandwidth=machine.bandwidth / 2))
    assert efficiency(overlap=0.5) > efficiency() > efficiency(machine=machine._replace(latency=0.1))


@pytest.mark.parametrize("tokens", [100, 1000, 2000, 10_000])
def test_ranks_that_wait_are_the_first_below_half_the_efficiency(tokens):
    def weak(N):
        return predict_step(SHAPES["GPT-2"], MACHINES["ethernet"], N, tokens)

    expected = next((N for N in range(1, 65) if weak(N).waiting > weak(N).compute), None)
    assert ranks_that_wait(weak, 64) == expected
    assert (expected is None) == (tokens > 1500)


def test_memory_with_and_without_zero():
    P = parameter_count(TINY)
    assert memory_bytes(TINY, 8, zero=False) == 16 * P == memory_bytes(TINY, 1, zero=True)
    assert memory_bytes(TINY, 8, zero=True) == 9 * P
    assert memory_bytes(TINY, 10**9, zero=True) == pytest.approx(8 * P)


def test_a_machine_comes_from_a_name_or_a_file_and_settings_replace_its_numbers(tmp_path):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(MEASURED))
    assert machine_of(Settings(machine=str(path))) == Machine(1e-5, 2.0**31, 3e10)
    assert machine_of(Settings(machine=str(path), latency=0.0, flops=1e12)) == Machine(0.0, 2.0**31, 1e12)
    assert machine_of(Settings(machine="infiniband", bandwidth=1e9)) == MACHINES["infiniband"]._replace(bandwidth=1e9)


@pytest.mark.parametrize(
    "changes, message",
    [({"alpha_s": "slow"}, "alpha_s"), ({"beta_s_per_byte": 0.0}, "above 0"), ({"flops_per_s": None}, "flops_per_s")],
)
def test_a_file_that_is_no_measurement_is_refused(changes, message, tmp_path):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(MEASURED | changes))
    with pytest.raises(ValueError, match=message):
        machine_of(Settings(machine=str(path)))


@pytest.mark.parametrize(
    "wrong",
    [dict(machine="abacus"), dict(flops=0.0), dict(latency=-1.0), dict(utilization=0.0), dict(overlap=1.5), dict(batch=99)],
)
def test_wrong_settings_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        main(Settings(run=tmp_path, **wrong))


def test_the_command_prints_and_draws(tmp_path, capsys):
    main(Settings(run=tmp_path, tokens=1024))
    printed = capsys.readouterr().out
    assert "GPT-2: 124M parameters" in printed and "7B: 6,667M parameters" in printed
    assert "weak scaling, up to 1,024 ranks: a step waits longer than it computes from 5 ranks on" in printed
    assert printed.count("less than a sequence a rank") == 1 + 1 + 3  # 512, 512 and 128 sequences in the batch
    assert (tmp_path / "figures" / "efficiency.svg").stat().st_size > 1000
