"""The application for Ray Serve: a gateway, and the replicas behind it."""

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from sfumato.serve.replicas.gateway import Gateway, asgi
from sfumato.serve.replicas.plan import Group, Plan
from sfumato.serve.replicas.replica import Replica

HEALTH_SECONDS = 2.0
"""Between two looks at a replica."""
BESIDES = 64
"""Requests to a replica at a time that write nothing, beside those that do."""


def application(plan: Plan) -> serve.Application:
    """The plan as an application, whose ingress is the gateway."""
    gateway: Any = serve.deployment(
        serve.ingress(asgi)(Gateway),
        name="gateway",
        num_replicas=plan.gateways,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=plan.options.grace + 5,
        health_check_period_s=HEALTH_SECONDS,
    )
    models, options = [group.models for group in plan.groups], plan.options
    return gateway.bind(models, options.rate, options.max_body, *(_replicas(plan, group) for group in plan.groups))


def _replicas(plan: Plan, group: Group) -> serve.Application:
    """The replicas of a group."""
    writing = plan.worker.rows * plan.workers
    options: dict[str, Any] = {"num_replicas": group.scale.least}
    if group.scale.most > group.scale.least:
        scaling = AutoscalingConfig(
            min_replicas=group.scale.least, max_replicas=group.scale.most, target_ongoing_requests=writing
        )
        options = {"autoscaling_config": scaling}
    deployment: Any = serve.deployment(
        Replica,
        name=group.name,
        max_ongoing_requests=writing + plan.queue + BESIDES,
        max_queued_requests=(writing + plan.queue) * group.scale.most,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        graceful_shutdown_timeout_s=plan.options.grace,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=30,
        **options,
    )
    return deployment.bind(plan, group)
