"""One small invented file per published format, shaped key by key as their authors publish them."""

import json

from drivekd.data.cameras import CAMERAS

SCENE, FRAME = "0" * 31 + "a", "0" * 31 + "b"
RING = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
ROBOSENSE_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_RIGHT", "CAM_BACK_LEFT")
ASK = "What is the moving status of object <c1,CAM_BACK,0.5583,0.5463>? Options: A. Going ahead. B. Stopped."


def paths(root: str = "", order=CAMERAS) -> dict[str, str]:
    return {c: f"{root}samples/{c}/n000__{c}__1.jpg" for c in order}


def drivekd(text: str = "<image>" + ASK, **other) -> dict:
    return {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "B. Stopped."}],
        "images": ["samples/CAM_BACK/n000__CAM_BACK__1.jpg"],
        "question_type": "perception",
    } | other


def qa(question: str, answer="Yes.", **other) -> dict:
    empty = dict.fromkeys(("C", "con_up", "con_down", "cluster", "layer"))
    return {"Q": question, "A": answer} | empty | other


def nest(groups: dict, images: dict | None, **frame) -> dict:
    return {SCENE: {"key_frames": {FRAME: {"QA": groups} | ({"image_paths": images} if images else {}) | frame}}}


def drivelm(images=None, **frame) -> dict:
    groups = {
        "behavior": [qa("Predict the behavior of the ego vehicle.", tag=[0])],
        "planning": [qa("What now?", tag=[1])],
        "prediction": [qa("What first?", tag=[3]), qa("Will it move?", tag=[0])],
        "perception": [qa("What is ahead?", tag=[2])],
    }
    return nest(groups, paths("../nuscenes/") if images is None else images, **frame)


def frame_question(**other) -> dict:
    return {"scene_token": SCENE, "frame_token": FRAME, "question": ASK, "answer": "B"} | other


def chat(question: str, **other) -> dict:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "A van."}]} | other


def multiturn() -> dict:
    turns = [
        {"content": "那是什么？", "role": "user"},
        {"content": "A van.", "role": "assistant"},
        {"content": "And then?", "role": "user"},
        {"content": "It turns.", "role": "assistant"},
    ]
    return {"messages": turns, "images": ["a.jpg"]}


def prediction(i: int, **other) -> dict:
    return {"id": f"{SCENE}_{FRAME}_{i}", "question": "<image>\n" + ASK, "answer": "A"} | other


OBJECTS = {
    "<c1,CAM_BACK,893.3,491.7>": {"Category": "Vehicle", "Status": None, "Visual_description": "A van.", "2d_bbox": [1.0, 2.0, 3.0, 4.0]}
}
TEXT_ANSWERS = {
    "perception": [{"Q": "What is ahead?", "A": ""}],
    "prediction": [{"Q": "Will it?", "A": ""}],
    "planning": [{"Q": "And?", "A": ""}],
}
NUSCENES_QA = {"split": "val", "sample_token": FRAME, "question": "How many cars?", "answer": "3", "template_type": "count", "num_hop": 0}
NULLS = dict.fromkeys(CAMERAS) | {"CAM_BACK": "data/nuscenes/samples/CAM_BACK/n000__CAM_BACK__1.jpg"}

# name → (file name, content, format, records, capabilities in file order, pictures of the first record)
SPECIMENS = {
    "drivekd messages": (
        "a.json",
        [drivekd(), drivekd(question_type="reasoning"), drivekd(question_type="planning")],
        "drivekd",
        ["perception", "reasoning", "planning"],
        1,
    ),
    "drivekd six in ring order": (
        "a.json",
        [drivekd("<image>" * 6 + "What?", images=[".../" + p for p in paths("nuscenes/", RING).values()])],
        "drivekd",
        ["perception"],
        6,
    ),
    "drivekd pairs": (
        "a.json",
        [{"question": ASK, "answer": "B", "images": list(paths().values()), "type": "planning"}],
        "drivekd",
        ["planning"],
        6,
    ),
    "drivekd pairs, capability": (
        "a.json",
        [{"question": ASK, "answer": "B", "images": ["a.jpg"], "capability": "Reasoning "}],
        "drivekd",
        ["reasoning"],
        1,
    ),
    **{
        f"drivekd under {key}": ("a.json", {"version": 1, key: [drivekd()]}, "drivekd", ["perception"], 1)
        for key in ("data", "items", "samples", "dataset", "records")
    },
    "drivekd lines": ("a.jsonl", "\n".join(json.dumps(drivekd()) for _ in range(3)) + "\n", "drivekd", ["perception"] * 3, 1),
    "drivelm train": (
        "a.json",
        drivelm(scene_description="Rain.", key_object_infos=OBJECTS),
        "drivelm",
        ["perception", "reasoning", "reasoning", "planning", "reasoning"],
        6,
    ),
    "drivelm questions only": (
        "a.json",
        nest({"planning": [{"Q": "What now?"}, qa("And?", None)]}, paths("../nuscenes/")),
        "drivelm",
        ["planning"] * 2,
        6,
    ),
    "drivelm output": ("a.json", [prediction(0, gt_answer="B"), prediction(1, gt_answer="B")], "drivelm-predictions", [None] * 2, 0),
    "drivelm submission": (
        "a.json",
        {"method": "m", "team": "t", "authors": ["a"], "email": "e", "results": [prediction(0)]},
        "drivelm-predictions",
        [None],
        0,
    ),
    "drivelm conversations": (
        "a.json",
        [chat("<image>\n" + ASK, id=f"{SCENE}_{FRAME}_0", image=list(paths("data/nuscenes/").values()))],
        "llava",
        [None],
        6,
    ),
    "drivebench raw": (
        "a.json",
        [frame_question(question_type="behavior", tag=[0], image_path=paths("data/nuscenes/"))],
        "drivebench",
        ["reasoning"],
        6,
    ),
    "drivebench final": (
        "a.json",
        [
            frame_question(question_type="perception", tag=[0], image_path={"CAM_BACK": paths()["CAM_BACK"]}),
            frame_question(question_type="prediction", tag=[3], image_path=paths()),
        ],
        "drivebench",
        ["perception", "reasoning"],
        1,
    ),
    "drivebench predictions": (
        "a.json",
        [frame_question(question_type="planning", tag=[1], image_path=NULLS, pred="Stop.", prompts="p", user_text="u")],
        "drivebench",
        ["planning"],
        1,
    ),
    "drivebench robust": (
        "a.json",
        [frame_question(question_type="robust_qas", tag=[t], image_path={"CAM_FRONT": "./BitError/CAM_FRONT/a.jpg"}) for t in range(6)],
        "drivebench",
        [None] * 6,
        1,
    ),
    "robosense release": ("a.json", nest(TEXT_ANSWERS, None), "robosense", ["perception", "reasoning", "planning"], 0),
    "robosense phase 1": (
        "a.json",
        [frame_question(category="prediction", img_paths=paths("data/nuscenes/", ROBOSENSE_ORDER), answer="")],
        "robosense",
        ["reasoning"],
        6,
    ),
    "robosense phase 2": (
        "a.json",
        [frame_question(category="corruption", img_paths=paths("data/phase2_image/"), history_frames={FRAME: paths()})],
        "robosense",
        [None],
        6,
    ),
    "llava lines": (
        "a.jsonl",
        "\n".join(json.dumps(chat("What?\n<image>", image="x_composite.jpg")) for _ in range(2)),
        "llava",
        [None] * 2,
        1,
    ),
    "lines under another name": (
        "a.json",
        "\n".join(json.dumps(chat("What?\n<image>", image="x.jpg")) for _ in range(2)),
        "llava",
        [None] * 2,
        1,
    ),
    "sharegpt text only": ("a.json", [chat("What?")], "llava", [None], 0),
    "qwen": (
        "a.json",
        [chat("What?\n<image>", image="a.png"), chat("First <image> and\n<image>", image=["a.png", "b.png"])],
        "llava",
        [None] * 2,
        1,
    ),
    "llamafactory": ("a.json", [multiturn()], "llamafactory", [None], 1),
    "nuscenes-qa": ("a.json", {"info": {"note": "n"}, "questions": [NUSCENES_QA, NUSCENES_QA]}, "nuscenes-qa", [None] * 2, 0),
}


def write(folder, name: str, content):
    "A file of JSON, text or bytes."
    path = folder / name
    data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(data)
    return path
