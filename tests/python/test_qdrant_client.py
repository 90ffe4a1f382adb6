"""The newest qdrant-client, unmodified, does a normal session (issue 2, Shows 2; FEATURES L1 to L5)."""

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse


def points(packages):
    return [models.PointStruct(**package) for package in packages]


@pytest.fixture
def client(servers):
    server = servers().start()
    client = QdrantClient(url=f"http://127.0.0.1:{server.port}", timeout=60)
    yield client
    client.close()


def create(client, name="packages"):
    client.create_collection(name, vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))


def best(packages, vector, keep=lambda payload: True, limit=10):
    """Exact answer, computed here."""
    kept = [package for package in packages if keep(package["payload"])]
    matrix = np.array([package["vector"] for package in kept], dtype=np.float32)
    scores = matrix @ np.array(vector, dtype=np.float32)
    order = np.argsort(-scores)[:limit]
    return [kept[i]["id"] for i in order], scores[order]


def test_a_whole_session_of_the_official_client(client, packages):
    assert not client.collection_exists("packages")
    create(client)
    assert client.collection_exists("packages")
    assert [c.name for c in client.get_collections().collections] == ["packages"]
    with pytest.raises(UnexpectedResponse, match="already exists"):
        create(client)

    for start in range(0, 5000, 500):
        result = client.upsert("packages", points(packages[start : start + 500]), wait=True)
        assert result.status == models.UpdateStatus.COMPLETED
    assert client.count("packages").count == 5000
    assert client.get_collection("packages").points_count == 5000

    for package in packages[::500]:
        truth, scores = best(packages, package["vector"])
        found = client.query_points("packages", query=package["vector"], limit=10, with_payload=True,
                                    search_params=models.SearchParams(exact=True)).points
        np.testing.assert_allclose([point.score for point in found], scores, atol=1e-4)
        assert found[0].payload is not None
        assert len({point.id for point in found} & set(truth)) >= 9  # equal scores may swap at the cut

    libs = models.Filter(must=[models.FieldCondition(key="section", match=models.MatchValue(value="libs"))])
    small = models.Filter(must=[libs, models.FieldCondition(key="installed_size_kib", range=models.Range(lt=100))])
    keep = lambda payload: payload["section"] == "libs" and payload["installed_size_kib"] < 100
    _, scores = best(packages, packages[7]["vector"], keep)
    found = client.query_points("packages", query=packages[7]["vector"], query_filter=small, limit=10, with_payload=True).points
    assert all(keep(point.payload) for point in found)
    np.testing.assert_allclose([point.score for point in found], scores, atol=1e-4)
    assert client.count("packages", count_filter=small).count == sum(keep(p["payload"]) for p in packages)

    seen, offset = [], None
    while True:
        page, offset = client.scroll("packages", limit=700, offset=offset, with_vectors=True)
        seen += page
        if offset is None:
            break
    assert [point.id for point in seen] == sorted(package["id"] for package in packages)
    by_id = {package["id"]: package for package in packages}
    for point in seen[::97]:
        np.testing.assert_allclose(point.vector, by_id[point.id]["vector"], atol=1e-6)
        assert point.payload == by_id[point.id]["payload"]

    wanted = [packages[i]["id"] for i in (3, 1, 2)]
    assert [point.id for point in client.retrieve("packages", wanted + [10**9])] == wanted

    client.delete("packages", points_selector=wanted)
    assert client.retrieve("packages", wanted) == []
    client.delete("packages", points_selector=models.FilterSelector(filter=libs))
    assert client.count("packages", count_filter=libs).count == 0

    client.delete_collection("packages")
    assert not client.collection_exists("packages")
    with pytest.raises(UnexpectedResponse, match="Not found: Collection `packages` doesn"):
        client.count("packages")
    create(client)
    assert client.count("packages").count == 0


def test_payload_operations(client):
    create(client)
    vector = [0.1] * 384
    client.upsert("packages", [models.PointStruct(id=i, vector=vector, payload={"n": i, "tags": ["a", "b"]}) for i in range(4)])
    client.set_payload("packages", {"extra": {"x": 1}}, points=[0, 1])
    client.overwrite_payload("packages", {"only": True}, points=[2])
    client.delete_payload("packages", ["tags"], points=[1])
    client.clear_payload("packages", points_selector=[3])
    payloads = {point.id: point.payload for point in client.retrieve("packages", [0, 1, 2, 3])}
    assert payloads == {
        0: {"n": 0, "tags": ["a", "b"], "extra": {"x": 1}},
        1: {"n": 1, "extra": {"x": 1}},
        2: {"only": True},
        3: {},
    }


def test_batches_named_vectors_and_uuids(client):
    space = models.VectorParams(size=2, distance=models.Distance.EUCLID)
    client.create_collection("named", vectors_config={"image": space, "text": space})
    uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    client.upsert("named", models.Batch(ids=[1, uuid], vectors={"image": [[0, 0], [3, 4]], "text": [[1, 1], [2, 2]]},
                                        payloads=[{"a": 1}, {}]))
    found = client.query_points("named", query=[0.0, 0.0], using="image", with_vectors=True).points
    assert [(point.id, point.score) for point in found] == [(1, 0.0), (uuid, 5.0)]
    assert found[1].vector == {"image": [3.0, 4.0], "text": [2.0, 2.0]}
    client.update_vectors("named", [models.PointVectors(id=1, vector={"text": [9.0, 9.0]})])
    client.delete_vectors("named", vectors=["image"], points=[uuid])
    by_id = {point.id: point.vector for point in client.retrieve("named", [1, uuid], with_vectors=True)}
    assert by_id == {1: {"image": [0.0, 0.0], "text": [9.0, 9.0]}, uuid: {"text": [2.0, 2.0]}}
    answers = client.query_batch_points("named", [
        models.QueryRequest(query=[0.0, 0.0], using="text", limit=1),
        models.QueryRequest(query=[9.0, 9.0], using="text", limit=1),
    ])
    assert [answer.points[0].id for answer in answers] == [uuid, 1]
