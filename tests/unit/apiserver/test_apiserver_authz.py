"""RBAC's rules, one by one, and what a node may do beyond them."""

from __future__ import annotations

import pytest

from nsk8s.apiserver.authz import Attributes, Authorizer, rule_allows
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import User
from nsk8s.apiserver.rbacpolicy import rule, urls
from nsk8s.store.memory import MemoryStore

CASES = [
    (rule("core", "pods", ["get"]), Attributes("get", "", "pods"), True),
    (rule("core", "pods", ["get"]), Attributes("get", "", "pods", "log"), False),
    (rule("core", "pods/log", ["get"]), Attributes("get", "", "pods", "log"), True),
    (rule("core", "*/scale", ["get"]), Attributes("get", "", "pods", "scale"), True),
    (rule("core", "*", ["get"]), Attributes("get", "", "pods", "log"), True),
    (rule("apps", "pods", ["get"]), Attributes("get", "", "pods"), False),
    (rule("*", "*", ["*"]), Attributes("escalate", "x", "y", "z"), True),
    (rule("core", "pods", ["get"], ["a"]), Attributes("get", "", "pods", name="a"), True),
    (rule("core", "pods", ["list"], ["a"]), Attributes("list", "", "pods"), False),
    (urls(["/metrics"], ["get"]), Attributes("get", path="/metrics"), True),
    (urls(["/healthz/*"], ["get"]), Attributes("get", path="/healthz/etcd"), True),
    (urls(["/metrics"], ["get"]), Attributes("get", path="/metrics/x"), False),
    (urls(["*"], ["*"]), Attributes("get", "", "pods"), False),
]


@pytest.mark.parametrize(("given", "asked", "allowed"), CASES)
def test_one_rule(given: dict[str, object], asked: Attributes, allowed: bool) -> None:
    assert rule_allows(given, asked) is allowed


def test_bindings_of_users_groups_and_accounts() -> None:
    cache = Cache(MemoryStore())
    group = "rbac.authorization.k8s.io"
    reader = {"metadata": {"name": "reader"}, "rules": [rule("core", "pods", ["get"])]}
    cache.resource(f"clusterroles.{group}").put("", "reader", reader)
    ref = {"kind": "ClusterRole", "name": "reader"}
    everywhere = {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [{"kind": "Group", "name": "staff"}]}
    cache.resource(f"clusterrolebindings.{group}").put("", "b", everywhere)
    here = {
        "metadata": {"name": "b", "namespace": "a"}, "roleRef": ref,
        "subjects": [{"kind": "User", "name": "eve"}, {"kind": "ServiceAccount", "name": "robot"}],
    }  # fmt: skip
    cache.resource(f"rolebindings.{group}").put("a", "b", here)
    authorizer = Authorizer(cache)
    in_a, in_b = Attributes("get", "", "pods", namespace="a"), Attributes("get", "", "pods", namespace="b")
    answers = {
        name: (authorizer.allows(user, in_a), authorizer.allows(user, in_b))
        for name, user in {
            "staff": User("ann", ("staff",)), "eve": User("eve"), "robot": User("system:serviceaccount:a:robot"),
            "other robot": User("system:serviceaccount:b:robot"), "nobody": User("x"), "master": User("x", ("system:masters",)),
        }.items()
    }  # fmt: skip
    assert answers == {
        "staff": (True, True), "eve": (True, False), "robot": (True, False), "other robot": (False, False),
        "nobody": (False, False), "master": (True, True),
    }  # fmt: skip


def test_a_node_reads_the_secrets_of_its_own_pods_only() -> None:
    cache = Cache(MemoryStore())
    spec = {"nodeName": "n1", "serviceAccountName": "sa", "volumes": [{"secret": {"secretName": "mine"}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}]}  # fmt: skip
    cache.resource("pods").put("a", "p", {"metadata": {"name": "p", "namespace": "a"}, "spec": spec})
    authorizer = Authorizer(cache)
    node, other = (User(f"system:node:{n}", ("system:nodes",)) for n in ("n1", "n2"))
    mine = Attributes("get", "", "secrets", namespace="a", name="mine")
    assert (authorizer.allows(node, mine), authorizer.allows(other, mine)) == (True, False)
    assert not authorizer.allows(node, Attributes("get", "", "secrets", namespace="a", name="yours"))
    assert not authorizer.allows(node, Attributes("list", "", "secrets", namespace="a"))
    assert authorizer.allows(node, Attributes("get", "", "configmaps", namespace="a", name="env"))
    assert authorizer.allows(node, Attributes("create", "", "serviceaccounts", "token", "a", "sa"))
    assert not authorizer.allows(node, Attributes("create", "", "serviceaccounts", "token", "a", "other"))
