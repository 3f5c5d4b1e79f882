"""Measures headrig against DuckDB, chDB and Polars and checks that all come to the same results. See benches/versus.sh."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = ["headrig", "duckdb", "chdb", "polars"]
TASKS = {
    "archive": "file → Parquet zstd(1), all columns of schemas/access.yaml",
    "aggregate": "file → requests, 5xx and p95 by path and minute",
}
MEGABYTE = 1e6


def main():
    options = arguments()
    work, cores = Path(options.work), sorted(os.sched_getaffinity(0))
    counts = [count for count in (1, 2) if count <= len(cores)]
    if len(counts) < 2:
        print("this machine gives one core only: there is no second table", file=sys.stderr)
    size, failed = Path(options.input).stat().st_size, []
    pipelines = {task: pipeline(options, work, task) for task in TASKS}
    print(f"\n{options.lines:,} lines, {size / MEGABYTE:,.0f} MB; {options.rounds} rounds, medians; MB/s of input by wall-clock time;")
    print("headrig: the whole process with its start; the others: without starting Python and importing, which favours them")
    for count in counts:
        pinned = set(cores[:count])
        for task, title in TASKS.items():
            runs = {tool: [] for tool in TOOLS}
            for turn in range(options.rounds):
                # Another one begins each round, so that nobody always meets the same neighbour's noise.
                for tool in TOOLS[turn % len(TOOLS):] + TOOLS[:turn % len(TOOLS)]:
                    runs[tool].append(measure(options, work, tool, task, pinned, pipelines[task]))
            failed += compare(options, work, task)
            failed += report(f"{title}, {count} core{'s' if count > 1 else ''}", runs, size, options, task)
    shutil.rmtree(work)
    print()
    for failure in failed:
        print(f"FAILED: {failure}")
    sys.exit(1 if failed else 0)


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("headrig", "input", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--lines", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-archive", type=float, default=2.5, help="least ratio to DuckDB")
    parser.add_argument("--min-aggregate", type=float, default=4.0, help="least ratio to DuckDB")
    return parser.parse_args()


def pipeline(options, work, task):
    """The pipeline file; for the aggregate without the rows themselves, where headrig can leave them out."""
    text = (HERE / f"versus-{task}.yaml").read_text()
    path = work / f"{task}.yaml"
    if task == "aggregate" and "tables: [windows] }" not in text:
        path.write_text(text.replace('url: "${ARCHIVE}" }', 'url: "${ARCHIVE}", tables: [windows] }'))
        checked = subprocess.run([options.headrig, "check", path], env=environment(options, work), capture_output=True)
        if checked.returncode == 0:
            return path
        print("headrig has no `archive.tables`: for the aggregate it writes all rows, too, which the others don't")
    path.write_text(text)
    return path


def environment(options, work):
    return {**os.environ, "INPUT": options.input, "ARCHIVE": str(work / "headrig"), "HEADRIG_LOG": "warn"}


def output(work, tool, task):
    return work / ("headrig" if tool == "headrig" else f"{tool}-{task}.parquet")


def measure(options, work, tool, task, pinned, file):
    """Runs a tool once: wall and CPU seconds, and the peak of its resident memory in MB."""
    if tool == "headrig":
        shutil.rmtree(output(work, tool, task), ignore_errors=True)
        command = [options.headrig, "run", "--once", str(file)]
    else:
        command = [sys.executable, str(HERE / "versus_tools.py"), tool, task, options.input, str(output(work, tool, task)), str(len(pinned))]
    # Written pages of the one before must not be this one's to wait for.
    os.sync()
    started = time.perf_counter()
    child = subprocess.Popen(
        command, env=environment(options, work), stdout=subprocess.PIPE, stderr=subprocess.PIPE if tool == "headrig" else None,
        preexec_fn=lambda: os.sched_setaffinity(0, pinned),
    )
    said = child.stdout.read()
    complaints = child.stderr.read() if child.stderr else b""
    _, status, used = os.wait4(child.pid, 0)
    wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{tool} ended with {child.returncode}: {' '.join(command)}\n{complaints.decode()}")
    if tool != "headrig":
        own = json.loads(said.splitlines()[-1])
        wall, cpu = own["wall"], own["cpu"]
    result = {"wall": wall, "cpu": cpu, "rss": used.ru_maxrss * 1024 / MEGABYTE}
    if task == "archive":
        # The aggregate would overwrite it.
        result["bytes"] = sum(path.stat().st_size for path in parquet(work, tool, task))
        if tool == "headrig":
            shutil.rmtree(work / "headrig-archive", ignore_errors=True)
            shutil.copytree(work / "headrig", work / "headrig-archive")
    return result


def parquet(work, tool, task):
    whole = output(work, tool, task)
    return sorted((whole / "data").rglob("*.parquet")) if tool == "headrig" else [whole]


def compare(options, work, task):
    """What is wrong with the results. In a process of its own, as memory is inherited by those that are measured."""
    command = [sys.executable, str(HERE / "versus_results.py"), task, str(options.lines), str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not done.stdout):
        sys.exit(done.stderr)
    return done.stdout.splitlines()


def report(title, runs, size, options, task):
    """Prints a table and says what is below its threshold."""
    medians = {tool: {key: statistics.median(run[key] for run in done) for key in done[0]} for tool, done in runs.items()}
    # Round by round: what slows the machine down for a while slows both.
    pairs = {tool: list(zip(runs["headrig"], runs[tool])) for tool in TOOLS}
    ratios = {tool: statistics.median(other["wall"] / own["wall"] for own, other in pairs[tool]) for tool in TOOLS}
    by_cpu = {tool: statistics.median(other["cpu"] / own["cpu"] for own, other in pairs[tool]) for tool in TOOLS}
    print(f"\n{title}\n\n| | MB/s | s | CPU s | peak MB |{' Parquet MB |' if task == 'archive' else ''} faster by | by CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- |" + (" --- |" if task == "archive" else ""))
    for tool, median in medians.items():
        written = f" {median['bytes'] / MEGABYTE:,.0f} |" if task == "archive" else ""
        print(f"| {tool} | {size / MEGABYTE / median['wall']:,.0f} | {median['wall']:.2f} | {median['cpu']:.2f} | "
              f"{median['rss']:,.0f} |{written} {'|' if tool == 'headrig' else f'{ratios[tool]:.2f} × | {by_cpu[tool]:.2f} ×'} |")
    if task == "archive":
        print("\n(aimed at: 600 MB/s on one core, 1,100 on two; machines differ, so only ratios decide)")
    least = options.min_archive if task == "archive" else options.min_aggregate
    if ratios["duckdb"] < least:
        return [f"{title}: {ratios['duckdb']:.2f} × DuckDB, not {least} ×"]
    return []


if __name__ == "__main__":
    main()
