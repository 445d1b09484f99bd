"""Go's random numbers: equal to what Go 1.26's `math/rand/v2` prints for the same seeds."""

from tessera.simulate.queueing.go_random import GoRandom


def test_the_generator_is_gos_pcg() -> None:
    stream = GoRandom(1, 2)
    assert [stream.uint64() for _ in range(4)] == [
        0xC4F5A58656EEF510,
        0x9DCEC3AD077DEC6C,
        0xC8D04605312F8088,
        0xCBEDC0DCB63AC19A,
    ]


def test_uniform_numbers_follow_the_same_stream() -> None:
    stream = GoRandom(1, 2)
    for _ in range(4):
        stream.uint64()
    assert [stream.uniform() for _ in range(3)] == [0.797802349388613, 0.3883664855410056, 0.8192750264193612]


def test_three_thousand_variates_of_both_kinds_are_gos_to_the_last_bit() -> None:
    # Enough to pass through the rare branches (the tails, and the edges of the strips); one wrong
    # branch would put the stream out of step, which the last number shows.
    stream = GoRandom(1, 2)
    exponential = normal = 0.0
    for _ in range(3000):
        exponential += stream.exponential()
        normal += stream.normal()
    assert (exponential, normal) == (2981.723036466522, 24.09556243617866)
    assert stream.uint64() == 0x2FE72DF58D7AA0CE
