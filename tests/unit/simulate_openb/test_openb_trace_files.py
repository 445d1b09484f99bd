"""Reading node and pod lists, in all their variants."""

from __future__ import annotations

from pathlib import Path

import pytest
from tessera.simulate.openb.trace import PodType, TraceError, read_nodes, read_pods
from tessera.simulate.openb.typical import typical_pods

NODES = "sn,cpu_milli,memory_mib,gpu,model\n"
FIVE = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n"
ALL = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time\n"
DATA = Path(__file__).parents[3] / "data" / "openb"


def written(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text)
    return path


def test_nodes_stand_by_name_and_may_have_no_gpu(tmp_path: Path) -> None:
    nodes = read_nodes(written(tmp_path, NODES + "n-2,64000,1000,2,T4\nn-1,32000,500,0,\n"))
    assert [(node.name, node.gpus, node.model) for node in nodes] == [("n-1", 0, ""), ("n-2", 2, "T4")]


def test_a_pod_list_may_have_five_columns_only(tmp_path: Path) -> None:
    (pod,) = read_pods(written(tmp_path, FIVE + "p,3152,100,1,810\n"))
    assert pod.type == PodType(3152, 100, 1, 810)
    assert pod.type.shares_gpu


def test_models_are_alternatives(tmp_path: Path) -> None:
    rows = "a,1000,1,1,1000,V100M16|V100M32,LS,Running,0\nb,1000,1,2,1000,,LS,Running,0\n"
    first, second = read_pods(written(tmp_path, ALL + rows))
    assert first.type.models == ("V100M16", "V100M32")
    assert second.type.models == ()
    assert second.type.total_gpu_milli == 2000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FIVE + "p,3152,100,1,1810\n", "line 2: gpu_milli is 1810"),
        (FIVE + "p,3152,100,2,500\n", "only one GPU can be shared"),
        (FIVE + "p,many,100,1,500\n", "cpu_milli is 'many'"),
        (FIVE + "p,1000,100,0,0\n", "no pod that asks for a GPU"),
        ("name,cpu_milli\np,1\n", "lacks the column memory_mib"),
    ],
)
def test_a_bad_pod_list_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_pods(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_node_list_without_gpus_and_a_missing_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no node with a GPU"):
        read_nodes(written(tmp_path, NODES + "n,1000,1000,0,\n"))
    with pytest.raises(TraceError, match="cannot be read"):
        read_nodes(tmp_path / "absent.csv")


def test_typical_pods_cover_the_wanted_share_and_sum_to_one() -> None:
    frequent, rare = PodType(1000, 1, 1, 500), PodType(2000, 1, 1, 700)
    pods = [frequent] * 96 + [rare] * 4
    (only,) = typical_pods(pods)
    assert (only.gpu_milli, only.share) == (500, 1.0)
    assert [pod.share for pod in typical_pods(pods, coverage=1.0)] == [0.96, 0.04]


def test_the_shipped_lists_are_those_of_the_paper() -> None:
    nodes = read_nodes(DATA / "openb_node_list_gpu_node.csv")
    assert (len(nodes), sum(node.gpus for node in nodes)) == (1213, 6212)
    pods = read_pods(DATA / "openb_pod_list_default.csv")
    assert (len(pods), len(typical_pods(pod.type for pod in pods))) == (8152, 35)
