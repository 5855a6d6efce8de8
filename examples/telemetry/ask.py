"""Asks a store what happened, with ClickHouse's own client.

    python ask.py URL

URL is http://USER:PASSWORD@HOST:8123/DATABASE, or chdb:///FOLDER. Tables and columns are those of docs/analytics.md.
"""

import sys

import clickhouse_connect

QUESTIONS = {
    "Which runs are there, and how good are they?": """
        SELECT run_id, status, env_steps, round(mean_return, 2) AS mean_return, tags
        FROM runs ORDER BY started""",
    "How did they learn?": """
        SELECT run_id, intDiv(env_steps, 50000) * 50000 AS steps, round(avg(mean_return), 2) AS mean_return
        FROM updates GROUP BY run_id, steps ORDER BY run_id, steps""",
    "What happened, by service?": """
        SELECT service, event, count() AS times, max(time) AS newest
        FROM logs GROUP BY service, event ORDER BY service, times DESC""",
}

url = sys.argv[1]
client = clickhouse_connect.get_client(dsn=url, **({"database": "rattle"} if url.startswith("chdb:") else {}))
for question, sql in QUESTIONS.items():
    answer = client.query(sql)
    print(f"\n{question}\n  " + "  ".join(answer.column_names))
    for row in answer.result_rows:
        print("  " + "  ".join(str(value) for value in row))
client.close()
