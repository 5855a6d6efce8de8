"""Views over the tables of runs that answer what is asked again and again, in run directories and in stores alike."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

#: Updates over which the learning curve's moving mean is taken.
_SMOOTHED: Final = 20
#: Best and worst episodes of a run that are listed.
_EPISODES: Final = 10


def _nested(pairs: str) -> str:
    """Return the list of (key, JSON) with the members of each object in place of the object."""
    inside = "arrayMap(inner -> (concat(pair.1, '.', inner.1), inner.2), JSONExtractKeysAndValuesRaw(pair.2))"
    return f"arrayFlatten(arrayMap(pair -> if(startsWith(pair.2, '{{'), {inside}, [pair]), {pairs}))"


_SETTINGS: Final = _nested(_nested("JSONExtractKeysAndValuesRaw(toJSONString(config))"))
_VALUE: Final = "if(startsWith(setting.2, '\"'), JSONExtractString(concat('[', setting.2, ']'), 1), setting.2)"
_NUMBERS: Final = "JSONExtractKeysAndValues(fields, 'Float64')"
_ERRORS: Final = "('ERROR', 'CRITICAL', 'FATAL')"


def _ranked(which: str, direction: str) -> str:
    columns = "run_id, episode_id, world, world_episode, agent, `return`, length, policy_version, time"
    order = f"PARTITION BY run_id ORDER BY `return` {direction}, episode_id"
    ranked = f"SELECT {columns}, row_number() OVER ({order}) AS place FROM episodes"
    return (
        f"SELECT run_id, '{which}' AS which, place, * EXCEPT (run_id, place) FROM ({ranked}) WHERE place <= {_EPISODES}"
    )


#: Each view with its statement. The order matters: later ones read earlier ones.
VIEWS: Final = MappingProxyType(
    {
        # The learning curve: mean returns as they were, and their mean over the last updates.
        "learning_curve": f"""
            SELECT run_id, policy_version, env_steps, seconds, mean_return,
                avg(mean_return) OVER (PARTITION BY run_id ORDER BY policy_version
                    ROWS BETWEEN {_SMOOTHED - 1} PRECEDING AND CURRENT ROW) AS moving_mean_return
            FROM updates""",
        # One row a run and setting, by its dotted key; values are text, lists are JSON.
        "run_settings": f"""
            SELECT run_id, experiment, setting.1 AS key, {_VALUE} AS value
            FROM (SELECT run_id, experiment, arrayJoin({_SETTINGS}) AS setting FROM runs)""",
        # Runs of an experiment that agree in a setting; `values` says how many values of it the experiment has.
        "run_comparison": """
            SELECT experiment, key, value, count() AS runs, avg(best_mean_return) AS mean_best_return,
                stddevPop(best_mean_return) AS std_best_return, max(best_mean_return) AS max_best_return,
                avg(mean_return) AS mean_last_return, avg(runs.env_steps_per_second) AS mean_env_steps_per_second,
                count() OVER (PARTITION BY experiment, key) AS values
            FROM run_settings INNER JOIN runs ON run_settings.run_id = runs.run_id
            GROUP BY experiment, key, value""",
        # How many updates lie between playing and learning.
        "policy_ages": """
            SELECT run_id, policy_version, env_steps, seconds, policy_age, max_policy_age
            FROM updates WHERE policy_age IS NOT NULL""",
        # What services did a second, by minute: training's steps, and every number of an event that says "per second".
        "service_throughput": f"""
            SELECT minute, run_id, service, quantity, avg(number) AS mean, max(number) AS highest
            FROM (
                SELECT toStartOfMinute(time) AS minute, run_id, 'training' AS service,
                    'env_steps_per_second' AS quantity, env_steps_per_second AS number
                FROM updates
                UNION ALL
                SELECT toStartOfMinute(time), run_id, service, pair.1, pair.2
                FROM logs ARRAY JOIN {_NUMBERS} AS pair WHERE endsWith(pair.1, '_per_second')
            )
            GROUP BY minute, run_id, service, quantity""",
        # What one tick of a world took on average during each update, the slowest of a run first.
        "slowest_ticks": """
            SELECT run_id, policy_version, env_steps, time, 1e6 / env_steps_per_second AS microseconds_per_tick,
                row_number() OVER (PARTITION BY run_id ORDER BY env_steps_per_second, policy_version) AS place
            FROM updates WHERE env_steps_per_second > 0""",
        "errors_by_service": f"""
            SELECT run_id, service, event, count() AS errors, min(time) AS first, max(time) AS last,
                argMax(fields, time) AS last_fields
            FROM logs WHERE upper(level) IN {_ERRORS}
            GROUP BY run_id, service, event""",
        "best_and_worst_episodes": f"{_ranked('best', 'DESC')} UNION ALL {_ranked('worst', 'ASC')}",
        # Starts of runs, as their logs tell them.
        "lives": """
            SELECT run_id, toUInt32(row_number() OVER (PARTITION BY run_id ORDER BY time) - 1) AS life,
                JSONExtractUInt(fields, 'update') AS after_update, time
            FROM logs WHERE event IN ('run_started', 'run_resumed')""",
        # An update was made by the last life that began before it; what earlier lives made of it was dropped.
        "run_lives": """
            SELECT lives.run_id AS run_id, lives.life AS life, lives.time AS time, lives.after_update AS after_update,
                CAST(NULL AS Nullable(UInt64)) AS updates_made, counting.updates AS updates_that_count
            FROM lives LEFT JOIN (
                SELECT run_id, life, count() AS updates
                FROM (
                    SELECT updates.run_id AS run_id, max(lives.life) AS life
                    FROM updates INNER JOIN lives ON updates.run_id = lives.run_id
                    WHERE lives.after_update < updates.policy_version
                    GROUP BY updates.run_id, updates.policy_version
                )
                GROUP BY run_id, life
            ) AS counting ON lives.run_id = counting.run_id AND lives.life = counting.life""",
    }
)


def create_view(name: str) -> str:
    """Return the statement that makes, or changes, one of the views."""
    return f"CREATE OR REPLACE VIEW {name} AS {' '.join(VIEWS[name].split())}"


def views_in(sql: str) -> list[str]:
    """Return the views that a statement may ask for, each after those that it reads: to make one costs milliseconds."""
    if re.search(r"\b(tables|system)\b", sql, re.IGNORECASE):
        return list(VIEWS)
    asked = {name for name in VIEWS if name in sql.lower()}
    read = {name for name in VIEWS if any(name in VIEWS[other] for other in asked)}
    return [name for name in VIEWS if name in asked | read]
