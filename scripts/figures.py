"""Write the figures of `docs/figures/*.json`, and the studies' tables, into the pages of PAGES.

    python scripts/figures.py [--check]

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`; `--check` only says whether all are
up to date.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/generalist.md",
    "docs/languages.md",
    "docs/studies.md",
    "docs/beit3.md",
    "docs/vlmo.md",
    "docs/finetune.md",
)
STUDIES = ("capfilt", "stagewise", "experts", "family", "coca", "mae", "flip")
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

RECALLS = ("", "TR R@1", "IR R@1", "TR R@10", "IR R@10")
DEMOS = {"demo": "`make demo`", "demo_scratch": "`make demo-scratch`"}


def load(name: str) -> dict[str, Any] | None:
    """The figures called `name`, or None where they were not measured yet."""
    path = FIGURES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def recalls(values: Mapping[str, float]) -> list[str]:
    """TR and IR R@1 and R@10."""
    return [f"{values[name]:.1f}" for name in ("tr_r1", "ir_r1", "tr_r10", "ir_r10")]


def machine(found: Mapping[str, Any]) -> str:
    """Where figures were taken."""
    where = found["machine"]
    threads = f"{where['threads']} threads" if where.get("threads") else ""
    return ", ".join(filter(None, (where.get("cpu", ""), threads, f"torch {found['versions']['torch']}")))


def demo() -> str:
    """Every demonstration that was measured, by split and stage."""
    rows, notes = [], []
    for name, command in DEMOS.items():
        if (found := load(name)) is None:
            continue
        for split, result in found["splits"].items():
            for stage, label in (("itc", "contrast"), ("itm", "re-ranked")):
                rows.append([f"{command}, {split}, {label}", *recalls(result[stage])])
        minutes = found["training_seconds"] / 60
        notes.append(
            f"{command}: {minutes:.1f} minutes of training, {found['rest_seconds']:.0f} s for the rest "
            f"({machine(found)})."
        )
    if not rows:
        return "Not measured yet: `python scripts/demo.py --figures`, with and without `--scratch`.\n"
    return table(RECALLS, rows) + "\n" + " ".join(notes) + "\n"


def photos() -> str:
    """Flickr8k's held-back photographs: figures alone."""
    if (found := load("albef_photos")) is None:
        return "Not measured yet: `python scripts/photos.py FLICKR8K`.\n"
    rows = []
    for name, result in found["splits"].items():
        label = f"{name}, {result['n_images']:,} photographs"
        for stage, way in (("itc", "contrast"), ("itm", "re-ranked")):
            rows.append([f"{label}, {way}", *recalls(result[stage])])
    note = (
        f"`python scripts/photos.py FLICKR8K`: recipe `albef_photos`, "
        f"{found['training_seconds'] / 60:.0f} minutes of training ({machine(found)}). "
        f"Flickr8k: Hodosh, Young and Hockenmaier 2013; all five captions."
    )
    return table(RECALLS, rows) + "\n" + note + "\n"


def step() -> str:
    """One pre-training step, fast beside plain."""
    blocks = []
    for name in ("albef_step", "albef_step_cuda"):
        if (found := load(name)) is None:
            continue
        rows = [
            [
                f"{path} path",
                f"{found['median_seconds'][path]:.3f}",
                f"{found['peak_bytes'][path]['total'] / 2**30:.2f}",
                f"{found['peak_bytes'][path]['over_weights'] / 2**30:.2f}",
                f"{found['flops'][path] / 1e12:.2f}",
            ]
            for path in ("plain", "fast")
        ]
        setting = found["setting"]
        note = (
            f"{found['speedup']:.2f} times as fast, losses equal to {found['largest_loss_difference']:.0e}. "
            f"ViT-B at {setting['image_size']} px, batch {setting['batch']}, caption lengths of Flickr8k; "
            f"medians of "
            f"{setting['repeats']} interleaved steps ({machine(found)}). `python benchmarks/albef_step.py`."
        )
        head = ["", "seconds a step", "GiB at the peak", "of these over the weights", "TFLOP, first batch"]
        blocks.append(table(head, rows) + "\n" + note + "\n")
    return "\n".join(blocks) or "Not measured yet: `make bench`.\n"


def blip() -> str:
    """Captioning and re-ranking beside transformers' BLIP."""
    rows, notes = [], []
    for name, what, other in (
        ("blip_caption", "captioning, beam 3, 20 new tokens", "transformers"),
        ("blip_rerank", "32 captions a picture, padded to the longest", "transformers_longest"),
        ("blip_rerank", "32 captions a picture, padded to 35", "transformers_35"),
        ("answer_ranking", "128 of 3,128 answers ranked, the official way", "official_way"),
    ):
        if (found := load(name)) is None:
            continue
        rows.append([what, f"{found['speedup'][other]:.2f}"])
        notes.append(f"`{found['command'].replace('python ', 'python benchmarks/')}` ({machine(found)})")
        if "share_of_products_rate" in found:
            large, own = (f"{100 * found[f'share_of_{of}_rate']:.0f} %" for of in ("matrix", "products"))
            notes.append(
                f"captioning at {large} of the rate of a large matrix product in the same run, {own} of "
                "that of PyTorch's own products of its shapes"
            )
    if not rows:
        return "Not measured yet: `make bench`.\n"
    return table(["", "times as fast as transformers"], rows) + "\n" + "; ".join(dict.fromkeys(notes)) + ".\n"


def open_clip() -> str:
    """CLIP and CoCa beside open_clip."""
    rows, notes = [], []
    for name, what in (
        ("clip_step", "a step of CLIP, ViT-B/32 at 224 px, batch {batch}"),
        ("coca_step", "a step of CoCa, ViT-S/16 at 224 px, 12 + 12 text layers, batch {batch}"),
        ("coca_generate_beam_search", "{new_tokens} tokens by CoCa, open_clip's search, batch {batch}"),
        ("coca_generate_top_k", "{new_tokens} tokens by CoCa, the likeliest each time, batch {batch}"),
    ):
        if (found := load(name)) is None:
            continue
        rows.append([what.format(**found["setting"]), f"{found['speedup']['open_clip']:.2f}"])
        if "writing_speedup" in found:
            rows.append(["... the writing alone, pictures encoded before", f"{found['writing_speedup']:.2f}"])
            rows.append(["... were its writing as fast as memory is read", f"{found['bound']:.2f}"])
        notes.append(f"`{found['command'].replace('python ', 'python benchmarks/')}` ({machine(found)})")
    if not rows:
        return "Not measured yet: `make bench`.\n"
    return table(["", "times as fast as open_clip"], rows) + "\n" + "; ".join(dict.fromkeys(notes)) + ".\n"


def ranks() -> str:
    """Exact ranks of synthetic features."""
    if (found := load("retrieval_ranks")) is None:
        return "Not measured yet: `python benchmarks/retrieval_ranks.py`.\n"
    setting, mib = found["setting"], 2**20
    return (
        f"Exact ranks and shortlists of {setting['k']} of {setting['pictures']:,} pictures by "
        f"{setting['texts']:,} texts, both directions, synthetic features of {setting['width']}: "
        f"{found['both_seconds']:.1f} s, {found['peak_bytes_over_features'] / mib:.0f} MiB over the features "
        f"at the peak; the whole matrix would be {found['matrix_bytes'] / mib:.0f} MiB ({machine(found)}). "
        "`python benchmarks/retrieval_ranks.py`.\n"
    )


def flip() -> str:
    """A step of FLIP's picture tower by what it does not see."""
    if (found := load("flip_step")) is None:
        return "Not measured yet: `make bench`.\n"
    rows = [
        [
            f"{float(share):.0%} left out",
            found["tokens"][share],
            f"{seconds:.3f}",
            f"{found['flops'][share] / 1e12:.2f}",
            f"{found['speedup'].get(share, 1.0):.2f}",
        ]
        for share, seconds in found["median_seconds"].items()
    ]
    setting = found["setting"]
    note = (
        f"ViT-S/16 at {setting['image_size']} px, batch {setting['batch']}, forward and backward; medians of "
        f"{found['repeats']} interleaved steps. `python benchmarks/flip_step.py` ({machine(found)})."
    )
    head = ["patches", "tokens", "seconds a step", "TFLOP", "times as fast"]
    return table(head, rows) + "\n" + note + "\n"


def wpa() -> str:
    """What word-patch alignment costs."""
    if (found := load("vilt_wpa")) is None:
        return "Not measured yet: `python benchmarks/vilt_wpa.py`.\n"
    names = {"without": "without alignment", "batched": "all pairs at once", "pair by pair": "pair by pair"}
    bare = found["median_seconds"]["without"]
    rows = []
    for name, label in names.items():
        seconds = found["median_seconds"][name]
        alone = found["alignment_seconds"].get(name)
        rows.append(
            [
                label,
                f"{seconds:.2f}",
                f"{seconds / bare:.3f}",
                f"{statistics.median(alone):.3f}" if alone else "-",
            ]
        )
    (patches, words), steps = found["patches_and_words"], len(found["seconds"]["batched"])
    both = zip(found["seconds"]["batched"], found["seconds"]["without"], strict=True)
    ratios = [batched / without for batched, without in both]
    head = ["", "processor seconds a step", "times as long", "of alignment alone"]
    return (
        f"{table(head, rows)}\nMLM, ITM and alignment of ViLT with a ViT-S/32 at 384 pixels, batch "
        f"{found['batch']}, {patches} patches and {words} words a pair; medians of {steps} "
        f"interleaved steps ({machine(found)}), of which the first two differ by {min(ratios):.2f} to "
        f"{max(ratios):.2f} times from pair to pair, as the machine was busy. Without alignment the "
        "last layer also computes less: [CLS] alone. `python benchmarks/vilt_wpa.py`.\n"
    )


def lora() -> str:
    """Adapters beside full fine-tuning."""
    if (found := ((load("tasks") or {"rows": {}})["rows"]).get("lora")) is None:
        return "Not measured yet: `python scripts/tasks.py --only lora`.\n"
    labels = {"full": "all weights", "lora": f"adapters of rank {found['rank']}"}
    rows = [
        [
            labels[name],
            interval(way),
            f"{way['trained_parameters'] / 1e3:,.0f}",
            f"{way['peak_bytes'] / 2**20:.0f}",
            f"{way['checkpoint_bytes'] / 2**20:.1f}",
            f"{way['cpu_seconds_a_step']:.3f}",
        ]
        for name, way in found["ways"].items()
    ]
    head = ["trained", "right, %", "thousand parameters", "MiB at the peak", "MiB a checkpoint"]
    note = (
        f"`python scripts/tasks.py --only lora` ({made(found)}): classes of easy-vqa's pictures, "
        f"{found['steps']} steps from the ALBEF of drawn scenes. The peak is what a process of its own "
        "held above what it had before the training."
    )
    return table([*head, "CPU seconds a step"], rows) + "\n" + note + "\n"


TASKS = {
    "vqa-scenes": "questions about drawn scenes",
    "vqa-easy": "questions of easy-vqa",
    "vqa-drawings": "questions about bundled drawings",
    "classify-scenes": "64 classes of drawn scenes",
    "classify-easy": "24 classes of easy-vqa's pictures",
    "classify-drawings": "groups of bundled drawings",
    "grounding": "boxes in drawn scenes by Grad-CAM",
}
REASONING = {"albef": "ALBEF", "vlmo": "VLMo", "beit3": "BEiT-3"}


def interval(found: Mapping[str, Any]) -> str:
    """`81.2 (79.0 to 83.1)`."""
    low, high = found["interval"]
    return f"{found['right']:.1f} ({low:.1f} to {high:.1f})"


def made(found: Mapping[str, Any]) -> str:
    """Where a row of `tasks.py` was taken."""
    return machine({"machine": found["machine"], "versions": found["made_by"]["versions"]})


def tasks() -> str:
    """Every task beside its controls; what was not run says so."""
    known, rows, notes = (load("tasks") or {"rows": {}})["rows"], [], []
    for name, label in TASKS.items():
        for test, found in known.get(name, {"tests": {"": None}})["tests"].items():
            about = f"{label}: {test}" if test else label
            if found is None:
                rows.append([about, "not run", "", "", ""])
                continue
            numbers = interval(found), f"{found['shuffled']:.1f}", f"{found['blind']:.1f}"
            rows.append([about, *numbers, f"{found['n']:,}"])
        if name in known:
            own = known[name]
            notes.append(f"`{name}` {own['steps']:,} steps, {own['cpu_seconds'] / 60:.1f} CPU minutes")
    reasoning = (load("reasoning") or {"systems": {}})["systems"]
    asked = {name: found["nlvr1_val"] for name, found in reasoning.items() if "nlvr1_val" in found}
    if not asked:
        rows.append(["sentences about NLVR1's pictures", "not run", "", "", ""])
    for system, found in asked.items():
        about = f"sentences about NLVR1's pictures, {REASONING[system]}"
        own = interval({"right": found["accuracy"], "interval": found["interval"]})
        blind = f"{found['shuffled']['accuracy']:.1f}", f"{found['majority']:.1f}"
        rows.append([about, own, *blind, f"{found['n']:,}"])
    photos = load("captions_photos") or {"splits": {"flickr8k/val": None}}
    for split, found in photos["splits"].items():
        about = f"captions of {split}, CIDEr (blind: the nearest neighbour's)"
        if found is None:
            rows.append([about, "not run", "", "", ""])
            continue
        blind = f"{found['shuffled']['cider']:.1f}", f"{found['nearest']['cider']:.1f}"
        rows.append([about, f"{found['cider']:.1f}", *blind, f"{found['n_images']:,}"])
    head = ["", "right, % (95 % interval)", "other pictures", "blind", "samples"]
    note = f"`python scripts/tasks.py`: {'; '.join(notes)}." if notes else "`python scripts/tasks.py`."
    if known:
        note += f" Machine: {made(next(iter(known.values())))}."
    return table(head, rows) + "\n" + note + "\n"


def captions() -> str:
    """Captions of what was never seen, beside a nearest neighbour's and those of other pictures; and the same
    models' retrieval.
    """
    rows, found_rows, notes = [], [], []
    for kind in ("emoji", "photos"):
        if (found := load(f"captions_{kind}")) is None:
            continue
        for split, result in found["splits"].items():
            given = {"model": result, "nearest neighbour": result["nearest"]}
            for label, scores in (given | {"other pictures' captions": result["shuffled"]}).items():
                names = ("exact", "bleu_4", "rouge_l", "cider")
                rows.append([f"{split}, {label}", *(f"{scores[name]:.1f}" for name in names)])
            for stage, label in (("itc", "contrast"), ("itm", "re-ranked")):
                values = result["retrieval"][stage]
                found_rows.append([f"`{found['recipe']}`, {split}, {label}", *recalls(values)])
        place = " FLICKR8K" if kind == "photos" else ""
        notes.append(
            f"`python scripts/captions.py {kind}{place}`: recipe `{found['recipe']}`, "
            f"{found['training_seconds'] / 60:.0f} minutes of training ({machine(found)})."
        )
    if not rows:
        return "Not measured yet: `python scripts/captions.py emoji`, and `photos FLICKR8K`.\n"
    written = table(["", "exact", "BLEU-4", "ROUGE-L", "CIDEr"], rows)
    return "\n".join([written, table(RECALLS, found_rows), " ".join(notes) + "\n"])


def generalist() -> str:
    """Every task of one checkpoint beside other pictures, and its drawings."""
    if (found := load("generalist")) is None:
        return "Not measured yet: `python scripts/generalist.py`.\n"
    names = {
        "caption": "captions, word for word",
        "question": "answers to questions",
        "classify": "one of 64 classes",
        "ground": "boxes that overlap by more than half",
        "region": "what is in a box",
    }
    rows = []
    for task, label in names.items():
        own, other = found["tasks"][task]["own"], found["tasks"][task]["shuffled"]
        low, high = own["interval"]
        alone = found["tasks"][task].get("specialist")
        rows.append([label, f"{own['right']:.1f} ({low:.1f} to {high:.1f})", f"{other['right']:.1f}"])
        rows[-1].append("not run" if alone is None else f"{alone['right']:.1f}")
    drawn = found["drawings"]
    rows.append(["drawings nearest to the real picture of their caption, R@1", f"{drawn['r1']:.1f}"])
    rows[-1] += [f"{drawn['r1_shuffled']:.1f}", drawn.get("r1_specialist", "not run")]
    sure = found["tasks"]["caption"]["n"]
    return (
        table(["% right", "own pictures", "other pictures", "specialist"], rows)
        + f"\n{sure} scenes a task with 95 % intervals (Wilson), {drawn['n']} drawings. R@1 of real pictures "
        f"after the VQ-VAE is {drawn['r1_codes']:.1f}, of real pictures themselves {drawn['r1_real']:.1f}; "
        f"{drawn['shown']:.1f} % of the drawings show all that their caption says and nothing else (after "
        f"the VQ-VAE {drawn['shown_codes']:.1f} %, real ones {drawn['shown_real']:.1f} %). "
        f"{found['steps']:,} steps of {found['batch_size']}, {found['parameters'] / 1e6:.1f} M parameters, "
        f"{sum(found['training_seconds'].values()) / 60:.0f} minutes of training ({machine(found)}).\n"
    )


NOT_SPOKEN = "Not measured yet: `python scripts/languages.py`.\n"


def spread(found: Mapping[str, Any], name: str) -> str:
    """A recall with its interval."""
    return "{:.1f} ({:.1f} to {:.1f})".format(found[name], *found["intervals"][name])


def languages() -> str:
    """Each language's retrieval of unseen drawings."""
    if (found := load("languages")) is None:
        return NOT_SPOKEN
    rows = [
        [
            f"{split}, {language}",
            *(f"{values[name]:.1f}" for name in ("tr_r1", "tr_r10")),
            spread(values, "ir_r1"),
            f"{values['ir_r10']:.1f}",
            f"{values['shuffled']['ir_r10']:.1f}",
        ]
        for split in ("combination", "style")
        for language, result in found["languages"].items()
        for values in (result[split],)
    ]
    head = ["", "TR R@1", "TR R@10", "IR R@1", "IR R@10", "IR R@10, other drawings' names"]
    note = (
        f"`python scripts/languages.py`: recipe `{found['recipe']}`, "
        f"{found['training_seconds'] / 60:.0f} minutes of training ({machine(found)})."
    )
    return f"{table(head, rows)}\n{note}\n"


def transfer() -> str:
    """From names that were never trained on to drawings learned in other languages."""
    if (found := load("languages")) is None:
        return NOT_SPOKEN
    rows = []
    for language, result in found["languages"].items():
        if "transfer" not in result:
            continue
        ours, english = result["transfer"], result["transfer_english"]
        rows.append(
            [
                f"{language}, {ours['n_texts']} names, {ours['n_images']} drawings",
                spread(ours, "ir_r1"),
                f"{ours['ir_r10']:.1f}",
                f"{ours['shuffled']['ir_r1']:.1f}, {ours['shuffled']['ir_r10']:.1f}",
                spread(english, "ir_r1"),
                f"{english['ir_r10']:.1f}",
            ]
        )
    return table(["", "IR R@1", "IR R@10", "other drawings' names", "English alone, IR R@1", "IR R@10"], rows)


def beit3() -> str:
    """Three tasks of one checkpoint beside other pictures, and beside the same from fresh weights."""
    if (found := load("beit3")) is None:
        return "Not measured yet: `python scripts/beit3.py`.\n"
    measures = {
        "retrieval": {
            "tr_r1": "picture to text, R@1",
            "ir_r1": "text to picture, R@1",
            "tr_r10": "picture to text, R@10",
            "ir_r10": "text to picture, R@10",
        },
        "captioner": {"exact": "captions, exact", "cider": "captions, CIDEr"},
        "groups": {"top1": "one of 8 groups, top-1"},
    }
    rows = []
    for task, names in measures.items():
        each = found["tasks"][task]
        for name, label in names.items():
            own, fresh = (
                "{:.1f} ({:.1f} to {:.1f})".format(each[start][name], *each[start]["intervals"][name])
                if start in each
                else "-"
                for start in ("pretrained", "fresh")
            )
            other = f"{each['pretrained']['shuffled'][name]:.1f}"
            rows.append([f"{label} (`{each['split']}`)", own, other, fresh])
    majority, seconds = found["tasks"]["groups"]["pretrained"]["majority"], found["core_seconds"]
    pretraining = [seconds.pop(name) for name in ("vqkd", "beit3")]
    head = ["", "from masked data modelling", "with other pictures", "from fresh weights"]
    return (
        f"{table(head, rows)}\nWith 95 % intervals by bootstrap. "
        f"The most frequent group reaches {majority:.1f}. "
        f"{sum(pretraining) / 60:.1f} core minutes of pre-training, "
        f"{sum(seconds.values()) / 60:.1f} of {len(seconds)} fine-tunings; "
        f"{found['parameters'] / 1e6:.1f} M parameters ({machine(found)}). `python scripts/beit3.py`.\n"
    )


def vlmo() -> str:
    """One checkpoint as dual encoder and as fusion encoder, and the same of a larger network."""
    ways = {
        "dual": "dual encoder",
        "reranked": "dual encoder, then its {k} best by the fusion encoder",
        "fusion": "fusion encoder on every pair",
    }
    rows, notes = [], []
    for name, what in (("vlmo_retrieval", "`vlmo_scenes`"), ("vlmo_retrieval_small", "random weights")):
        if (found := load(name)) is None:
            continue
        setting, right = found["setting"], found.get("accuracy")
        for way, label in ways.items():
            rate = found["queries_a_second"][way]
            rates = [f"{rate:.3g}", f"{found['queries_a_second']['dual'] / rate:.3g}"]
            recall = [f"{right[way][f'{side}_r1']:.1f}" if right else "-" for side in ("ir", "tr")]
            rows.append([f"{what}, {label.format(**setting)}", *rates, *recall])
        other = f"; with other pictures' texts R@1 is {right['shuffled']['ir_r1']:.1f} %" if right else ""
        command = found["command"].replace("python ", "python benchmarks/")
        notes.append(
            f"{what}: {setting['parameters'] / 1e6:.1f} M parameters, {setting['pictures']} pictures, "
            f"texts of {setting['tokens']:.0f} tokens{other} (`{command}`, {machine(found)})."
        )
    if not rows:
        return "Not measured yet: `python benchmarks/vlmo_retrieval.py runs/vlmo_scenes/model`.\n"
    head = ["", "texts a second", "times as slow", "text to picture, R@1", "picture to text, R@1"]
    return f"{table(head, rows)}\n{' '.join(notes)}\n"


def reasoning() -> str:
    """Accuracy of sentences about two pictures, drawn and NLVR1's own."""
    if (found := load("reasoning")) is None:
        return "Not measured yet: `python scripts/reasoning.py`.\n"
    names = {
        "drawn_pairs": "drawn pairs",
        "drawn_strips": "drawn strips",
        "nlvr1_val": "NLVR1's own val",
    }
    rows = [
        [
            f"{system}, {what}",
            "{accuracy:.1f} ({sentence_interval[0]:.1f} to {sentence_interval[1]:.1f})".format(
                **result[name]
            ),
            f"{result[name]['majority']:.1f}",
            f"{result[name]['shuffled']['accuracy']:.1f}",
            f"{result[name]['n']:,}",
        ]
        for system, result in found["systems"].items()
        for name, what in names.items()
        if name in result
    ]
    head = [
        "",
        "right, % (95 % interval, over sentences)",
        "the more frequent answer",
        "other pictures",
        "pairs",
    ]
    parts = [part for system in found["systems"].values() for part in system["made_by"].values()]
    versions = ", ".join(sorted({part["versions"]["torch"] for part in parts}))
    return f"{table(head, rows)}\ntorch {versions}, one core a system.\n"


def summary() -> str:
    """The few lines of the README."""
    lines = []
    if (found := load("demo")) is not None:
        for split, result in found["splits"].items():
            values = result["itm"]
            lines.append(
                f"- `make demo`, {found['training_seconds'] / 60:.1f} minutes of training: on `{split}`, "
                f"{result['n_images']:,} drawings that it never saw, R@1 {values['tr_r1']:.1f} % "
                f"image to text and "
                f"{values['ir_r1']:.1f} % text to image."
            )
    if (found := load("captions_emoji")) is not None:
        result = found["splits"]["combination"]
        values = result["retrieval"]["itm"]
        lines.append(
            f"- `blip_emoji` on the same {result['n_images']:,} drawings: R@1 {values['tr_r1']:.1f} % and "
            f"{values['ir_r1']:.1f} %; captions that are exactly their names {result['exact']:.1f} %, CIDEr "
            f"{result['cider']:.0f} (nearest neighbour: {result['nearest']['exact']:.0f} % and "
            f"{result['nearest']['cider']:.0f})."
        )
    if (found := load("albef_photos")) is not None:
        for split, result in found["splits"].items():
            values = result["itm"]
            lines.append(
                f"- `albef_photos`, {found['training_seconds'] / 60:.0f} minutes of training: on {split}, "
                f"{result['n_images']:,} held-back photographs, R@1 {values['tr_r1']:.1f} % and "
                f"{values['ir_r1']:.1f} %."
            )
    if (found := load("albef_step")) is not None:
        lines.append(
            f"- One ALBEF pre-training step takes {found['speedup']:.2f} times less than the plain "
            "path's, with "
            "the same losses."
        )
    ratios = []
    for name, what, peer in (
        ("blip_rerank", "re-ranking captions by BLIP {} (transformers)", "transformers_longest"),
        ("blip_caption", "captions by BLIP {} (transformers)", "transformers"),
        ("answer_ranking", "ranking 3,128 answers {} (the official way)", "official_way"),
        ("clip_step", "a CLIP step {} (open_clip)", "open_clip"),
        ("coca_step", "a CoCa step {} (open_clip)", "open_clip"),
        ("coca_generate_beam_search", "captions by CoCa {} (open_clip, beam search)", "open_clip"),
        ("coca_generate_top_k", "the same {} (open_clip, top_k)", "open_clip"),
    ):
        if (found := load(name)) is not None:
            ratios.append(what.format(f"{found['speedup'][peer]:.1f}"))
    if ratios:
        lines.append(
            f"- Times as fast as another library, the same weights and results: {', '.join(ratios)}."
        )
    return "\n".join(lines) + "\n" if lines else "No figures yet: `docs/results.md` says how they are made.\n"


def study(name: str) -> str:
    """The tables that a study wrote of the arms that it has run."""
    path = ROOT / "studies" / "results" / name / "tables.md"
    return path.read_text() if path.exists() else f"Not run yet: `python studies/{name}.py`.\n"


TABLES: dict[str, Callable[[], str]] = {
    **{f"study_{name}": partial(study, name) for name in STUDIES},
    "demo": demo,
    "photos": photos,
    "step": step,
    "blip": blip,
    "flip": flip,
    "open_clip": open_clip,
    "ranks": ranks,
    "lora": lora,
    "tasks": tasks,
    "wpa": wpa,
    "captions": captions,
    "generalist": generalist,
    "languages": languages,
    "transfer": transfer,
    "beit3": beit3,
    "vlmo": vlmo,
    "reasoning": reasoning,
    "summary": summary,
}


def render(page: str) -> str:
    """A page with its tables written anew."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def main() -> None:
    """Rewrite the pages, or check them."""
    stale = []
    for name in PAGES:
        path = ROOT / name
        old = path.read_text()
        if (new := render(old)) != old:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        sys.exit(f"error: {', '.join(stale)} do not show docs/figures: run python scripts/figures.py")


if __name__ == "__main__":
    main()
