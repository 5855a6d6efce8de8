"""Run directories and what can be asked of them: tables, SQL, plots and replays."""
