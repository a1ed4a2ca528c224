#!/usr/bin/env python3
"""Writes the dashboards: `grafana/boards.py` makes dashboards/*.json anew, `--check` only says whether they are as written here.

A panel is one line of what it asks and one of what it means; layout, variables and the conventions are made here once.
In an expression, § stands for the selector of the chosen jobs and instances.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent / "dashboards"
SELECTOR = 'job=~"$job", instance=~"$instance"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


class Board:
    """Panels from left to right, row by row."""

    def __init__(self, uid, title, description):
        self.uid, self.title, self.description = uid, title, description
        self.panels, self.x, self.y, self.high = [], 0, 0, 0

    def place(self, width, height):
        if self.x + width > WIDTH:
            self.x, self.y, self.high = 0, self.y + self.high, 0
        at = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x, self.high = self.x + width, max(self.high, height)
        return at

    def add(self, kind, title, more, width, height):
        at = self.place(width, height)
        self.panels.append({"id": len(self.panels) + 1, "type": kind, "title": title, "gridPos": at, **more})

    def row(self, title):
        self.x, self.y, self.high = 0, self.y + self.high, 0
        self.add("row", title, {"collapsed": False, "panels": []}, WIDTH, 1)

    def ask(self, kind, title, description, unit, targets, width, height, options, defaults=None, overrides=()):
        """targets: (expression, legend) each."""
        form = "heatmap" if kind == "heatmap" else "time_series"
        self.add(kind, title, {
            "description": description,
            "datasource": DATASOURCE,
            "targets": [{
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": expression.replace("§", SELECTOR),
                "format": form,
                "legendFormat": legend,
                "range": True,
            } for place, (expression, legend) in enumerate(targets)],
            "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": list(overrides)},
            "options": options,
        }, width, height)

    def lines(self, title, description, unit, *targets, width=8, stacked=False, log=False, limit=None, top=None):
        """Over time. `limit` is the legend of what must not be passed: drawn red and dashed."""
        custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 40 if stacked else 8, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if stacked else "none", "group": "A"}
        custom["scaleDistribution"] = {"type": "log", "log": 10} if log else {"type": "linear"}
        defaults = {"custom": custom} if log else {"custom": custom, "min": 0}
        if top is not None:
            defaults["max"] = top
        overrides = [] if limit is None else [{
            "matcher": {"id": "byName", "options": limit},
            "properties": [
                {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}},
                {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
                {"id": "custom.fillOpacity", "value": 0},
            ],
        }]
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        self.ask("timeseries", title, description, unit, targets, width, 8, options, defaults, overrides)

    def number(self, title, description, unit, expression, legend="__auto", steps=(), mappings=(), name=False, width=4):
        """The newest value. `steps`: (from, colour), of which the first is from minus infinity."""
        colours = [{"color": colour, "value": value} for value, colour in steps] or [{"color": "text", "value": None}]
        defaults = {"thresholds": {"mode": "absolute", "steps": colours}, "mappings": list(mappings)}
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "name" if name else "auto",
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
        }
        self.ask("stat", title, description, unit, [(expression, legend)], width, 4, options, defaults)

    def heat(self, title, description, histogram, width=12):
        """`histogram`: name and further labels, as in `name{§}`."""
        expression = f"sum by (le) (increase({histogram}[$__rate_interval]))"
        options = {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "reverse": False, "fill": "dark-orange"},
            "yAxis": {"unit": "s", "axisPlacement": "left", "reverse": False},
            "rowsFrame": {"layout": "auto"},
            "filterValues": {"le": 1e-9},
            "cellGap": 1,
            "legend": {"show": True},
            "tooltip": {"show": True, "yHistogram": False},
        }
        self.ask("heatmap", title, description, "s", [(expression, "{{le}}")], width, 8, options)

    def json(self):
        return json.dumps({
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["nepenthe"],
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": 39,
            "version": 1,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "browser",
            "weekStart": "",
            "fiscalYearStartMonth": 0,
            "liveNow": False,
            "annotations": {"list": []},
            "links": [{
                "type": "dashboards", "title": "nepenthe", "tags": ["nepenthe"], "asDropdown": False, "includeVars": True,
                "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
            }],
            "templating": {"list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "", "hide": 0,
                 "multi": False, "includeAll": False, "refresh": 1, "current": {}, "options": []},
                variable("job", "Job", "label_values(nepenthe_build_info, job)"),
                variable("instance", "Instance", 'label_values(nepenthe_build_info{job=~"$job"}, instance)'),
            ]},
            "panels": self.panels,
        }, indent=2, ensure_ascii=False) + "\n"


def variable(name, label, query):
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": "variable"}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".+",
        "hide": 0, "regex": "", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [],
    }


def mean(name, by):
    """Seconds of one, by label, of a histogram."""
    each = f"sum by ({by}) (rate({name}_%s{{§}}[$__rate_interval]))"
    return f"{each % 'sum'} / {each % 'count'}"


def quantile(q, name, more="", by=""):
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket{{§{more}}}[$__rate_interval])))"


YES_NO = [{"type": "value", "options": {"0": {"text": "no", "index": 0}, "1": {"text": "yes", "index": 1}}}]
GOOD, POOR, BAD = "green", "orange", "red"


def operations():
    board = Board("nepenthe-operations", "nepenthe / Operations",
                  "The way of the events: in, through the model, out; and the process that carries them.")
    board.row("Now")
    board.number("Ready", "What /readyz says: partitions assigned, caught up, broker and store well.", "none",
                 "min(nepenthe_ready{§})", steps=[(None, BAD), (1, GOOD)], mappings=YES_NO, width=3)
    board.number("Lag", "Records from what is stored to the ends of all partitions.", "short",
                 "sum(nepenthe_consumer_lag_records{§})", steps=[(None, GOOD), (10_000, POOR), (1_000_000, BAD)], width=3)
    board.number("Oldest unseen event", "Age of the oldest event that no published generation shows.", "s",
                 "max(nepenthe_event_oldest_seconds{§})", steps=[(None, GOOD), (600, POOR), (1800, BAD)], width=3)
    board.number("Dead letters", "Records that could not be taken, in the last hour.", "short",
                 "sum(increase(nepenthe_dead_letters_total{§}[1h]))", steps=[(None, GOOD), (1, POOR)], width=3)
    board.number("Generation", "Number of the newest committed generation.", "none", "max(nepenthe_generation{§})", width=3)
    board.number("Its age", "Old is no trouble where nothing happens: see the oldest unseen event.", "s",
                 "time() - max(nepenthe_generation_created_timestamp_seconds{§} > 0)", width=3)
    board.number("Up for", "Time since the process started.", "s", "time() - min(process_start_time_seconds{§})", width=3)
    board.number("Version", "Of the running binary.", "none", "max by (version) (nepenthe_build_info{§})", "{{version}}", name=True,
                 width=3)

    board.row("In")
    board.lines("Events", "Records read, by kind and what became of them. `fenced`: kept out by a forget; `duplicate_offset`: read before.",
                "eps", ("sum by (kind, outcome) (rate(nepenthe_events_total{§}[$__rate_interval]))", "{{kind}} {{outcome}}"), stacked=True)
    board.lines("Lag by partition", "Records from what is stored to the partition's end. A partition given away is no longer told.",
                "short", ("sum by (topic, partition) (nepenthe_consumer_lag_records{§})", "{{topic}}/{{partition}}"))
    board.lines("Dead letters", "Records that could not be taken, by error. Of forgets these are requests that nobody serves.",
                "cps", ("sum by (error) (rate(nepenthe_dead_letters_total{§}[$__rate_interval]))", "{{error}}"), stacked=True)

    board.row("Freshness")
    board.heat("Age of events when readers see them", "From an event being read to a published generation with it.",
               "nepenthe_event_age_seconds_bucket{§}")
    board.lines("Age of events", "Quantiles of the same; and the oldest event that still waits.", "s",
                *((quantile(q, "nepenthe_event_age_seconds"), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)),
                ("max(nepenthe_event_oldest_seconds{§})", "oldest waiting"), width=12)

    board.row("Generations")
    board.lines("Generations a minute", "Committed, by whether certified; `interim` ones are published ahead of the solve.", "opm",
                ("60 * sum by (certified) (rate(nepenthe_generations_total{§}[$__rate_interval]))", "certified {{certified}}"),
                stacked=True)
    board.lines("Time of one, by phase", "Mean seconds that a generation spends in each phase.", "s",
                (mean("nepenthe_generation_duration_seconds", "phase"), "{{phase}}"), stacked=True)
    board.lines("Busy, by phase", "Share of the time, counted when a phase ends: a long one is a peak. Solving near 1 for long: events wait.",
                "percentunit",
                ("sum by (phase) (rate(nepenthe_generation_duration_seconds_sum{§}[$__rate_interval]))", "{{phase}}"), stacked=True)
    board.lines("Users and items", "With a factor row in the newest generation.", "short",
                ("sum(nepenthe_users{§})", "users"), ("sum(nepenthe_items{§})", "items"))
    board.lines("Interactions", "That the newest generation was learnt from.", "short", ("sum(nepenthe_interactions{§})", "interactions"))
    board.lines("Solver failures", "Generations given up because the solver failed, in five minutes. The log names the row.", "short",
                ("sum by (instance) (increase(nepenthe_solver_failures_total{§}[5m]))", "{{instance}}"))

    board.row("Out")
    board.lines("Published", "Records that the broker acknowledged, by topic.", "cps",
                ("sum by (topic) (rate(nepenthe_published_records_total{§}[$__rate_interval]))", "{{topic}}"), stacked=True)
    board.lines("Outbox", "Records committed and not yet acknowledged. From 50 000 on nothing is read.", "short",
                ("sum by (instance) (nepenthe_outbox_records{§})", "{{instance}}"))
    board.lines("Failed sends", "Parcels that were not acknowledged and are sent again, in five minutes.", "short",
                ("sum by (instance) (increase(nepenthe_publish_failures_total{§}[5m]))", "{{instance}}"))

    board.row("Store")
    board.lines("State", "Live bytes of the column families.", "bytes",
                ("sum by (family) (nepenthe_store_bytes{§})", "{{family}}"), stacked=True, width=12)
    board.lines("Free disk", "Share of the state's file system that is free. Compactions and purges write anew before they remove.",
                "percentunit",
                ("min by (instance) (nepenthe_store_disk_free_bytes{§} / nepenthe_store_disk_bytes{§})", "{{instance}}"), width=12, top=1)

    board.row("Process")
    board.lines("Processors", "In use, by instance.", "short",
                ("sum by (instance) (rate(process_cpu_seconds_total{§}[$__rate_interval]))", "{{instance}}"))
    board.lines("Memory", "Resident bytes.", "bytes", ("sum by (instance) (process_resident_memory_bytes{§})", "{{instance}}"))
    board.lines("Open files", "Against what the process may open.", "short",
                ("max by (instance) (process_open_fds{§})", "{{instance}}"), ("min(process_max_fds{§})", "limit"),
                limit="limit", log=True)
    return board


def forgetting():
    board = Board("nepenthe-forgetting", "nepenthe / Forgetting",
                  "Requests to forget: how many wait and where, how long they take, and what proves that they were served.")
    duration, objective = "nepenthe_forget_duration_seconds", 'max(nepenthe_forget_objective_seconds{§, stage="%s"})'
    board.row("Now")
    board.number("To be published", "Requests that no published generation has served yet.", "short",
                 'sum(nepenthe_forgets_pending{§, stage!="published"})')
    board.number("Oldest of them", "Its age, as a share of receipts.published_within.", "percentunit",
                 'max(nepenthe_forget_oldest_seconds{§} / ignoring(stage) nepenthe_forget_objective_seconds{§, stage="published"})',
                 steps=[(None, GOOD), (0.5, POOR), (1, BAD)])
    board.number("To be purged", "Published requests of which bytes may be left on the disk or on the factors topic.", "short",
                 'sum(nepenthe_forgets_pending{§, stage="published"})')
    board.number("Oldest of them", "Its age since published, as a share of receipts.purged_within.", "percentunit",
                 'max(nepenthe_purge_oldest_seconds{§} / ignoring(stage) nepenthe_forget_objective_seconds{§, stage="purged"})',
                 steps=[(None, GOOD), (0.5, POOR), (1, BAD)])
    board.number("Residual", "Of the newest generation, as a share of the tolerance; certified at 1 and below.", "percentunit",
                 "max(nepenthe_residual{§} / nepenthe_residual_tolerance{§})", steps=[(None, GOOD), (1.000001, BAD)])
    board.number("Rank binds", "The newest generation wants more directions than it has: two retrains differ by more than a forget then.",
                 "none", "max(nepenthe_rank_binds{§})", steps=[(None, GOOD), (1, POOR)], mappings=YES_NO)

    board.row("Requests")
    board.lines("Receipts a minute", "By the status that was reached.", "opm",
                ("60 * sum by (status) (rate(nepenthe_forgets_total{§}[$__rate_interval]))", "{{status}}"))
    board.lines("Waiting, by stage", "Requests that wait at a stage for the next one.", "short",
                ("sum by (stage) (nepenthe_forgets_pending{§})", "{{stage}}"), stacked=True)
    board.lines("Oldest to be published", "Its age, against receipts.published_within.", "s",
                ("max(nepenthe_forget_oldest_seconds{§})", "oldest"), (objective % "published", "objective"), limit="objective")

    board.row("How long they take")
    board.heat("Until published", "From accepted to published; the objective is the dashed line of the panel beside.",
               duration + '_bucket{§, stage="published"}')
    board.lines("Until published, against the objective", "Quantiles, and receipts.published_within.", "s",
                *((quantile(q, duration, ', stage="published"'), f"p{round(q * 100)}") for q in (0.5, 0.99)),
                (objective % "published", "objective"), width=12, log=True, limit="objective")
    board.heat("Until purged", "From accepted to purged: mostly the broker's time to close and clean segments of the factors topic.",
               duration + '_bucket{§, stage="purged"}')
    board.lines("Each stage", "99th percentile of the time from accepted to each stage.", "s",
                (quantile(0.99, duration, by="stage"), "{{stage}}"), width=12, log=True)

    board.row("What proves it")
    board.lines("Residual against tolerance", "Largest relative residual of any row's normal equations, of the newest generation.",
                "sci", ("max by (instance) (nepenthe_residual{§})", "{{instance}}"), ("max(nepenthe_residual_tolerance{§})", "tolerance"),
                log=True, limit="tolerance")
    board.lines("Duality gap", 'Bound of the distance from the global optimum, a share of the objective. Needs model.certify = "global".',
                "sci",
                ("max by (instance) (nepenthe_duality_gap{§} / abs(nepenthe_objective{§}))", "{{instance}}"), log=True)
    board.lines("Sweeps of a generation", "Sweeps over the factors for one committed generation.", "short",
                ("sum(rate(nepenthe_sweeps_total{§}[$__rate_interval])) / sum(rate(nepenthe_generations_total{§}[$__rate_interval]))",
                 "sweeps"))
    board.lines("Objective", "Its value at the newest generation; it jumps with the data.", "short",
                ("max by (instance) (nepenthe_objective{§})", "{{instance}}"))
    board.lines("Rank", "Directions that the newest generation uses (0: not known), against the length of its rows.", "short",
                ("max by (instance) (nepenthe_effective_rank{§})", "{{instance}}"), ("max(nepenthe_rank{§})", "rank"), limit="rank")
    board.lines("Events kept out", "Events that came again after they were forgotten, and that a fence kept out.", "eps",
                ('sum(rate(nepenthe_events_total{§, outcome="fenced"}[$__rate_interval]))', "fenced"))

    board.row("Purge")
    board.lines("Oldest to be purged", "Time since it was published, against receipts.purged_within.", "s",
                ("max(nepenthe_purge_oldest_seconds{§})", "oldest"), (objective % "purged", "objective"), limit="objective")
    board.lines("Time of one step", "Mean seconds of one erasure of the disk, and of one look at the factors topic.", "s",
                (mean("nepenthe_purge_duration_seconds", "phase"), "{{phase}}"))
    board.lines("Written anew", "Bytes of table files that erasures wrote anew: the price of purging.", "Bps",
                ("sum by (instance) (rate(nepenthe_purge_rewritten_bytes_total{§}[$__rate_interval]))", "{{instance}}"))
    board.lines("Purges not proven", "Tried again later, in five minutes; /v1/status says why (`purge.reason`).", "short",
                ("sum by (instance) (increase(nepenthe_purge_failures_total{§}[5m]))", "{{instance}}"))
    board.row("What keeps, and what keeps out")
    board.lines("Fences", "Rules that keep forgotten events out for good; with store.fence_retention they end one day.", "short",
                ("sum(nepenthe_fences{§})", "fences"), width=8)
    board.lines("Fences expired", "Ended by store.fence_retention: what they kept out may come back from here on.", "short",
                ("sum by (instance) (increase(nepenthe_fences_expired_total{§}[$__rate_interval]))", "{{instance}}"), width=8)
    board.number("Backups", "Known copies of the state that may still exist: what was forgotten since lies in them until they are deleted.",
                 "short", "max(nepenthe_backups{§})")
    board.number("Newest backup", "When the last known backup was taken; 1970 when there is none.", "dateTimeAsIso",
                 "max(nepenthe_backup_newest_timestamp_seconds{§}) * 1000")
    return board


def main():
    stale = []
    for name, board in [("operations", operations()), ("forgetting", forgetting())]:
        path, text = HERE / f"{name}.json", board.json()
        if sys.argv[1:] == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(str(path))
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"not as grafana/boards.py writes them: {', '.join(stale)}; run it")


if __name__ == "__main__":
    main()
