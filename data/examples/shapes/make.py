"Draws the pictures of this example and writes its questions: `python data/examples/shapes/make.py`; the same files each time."
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
COLOURS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4", "orange": "#ff7f0e"}
SHAPES = ("circle", "square", "triangle")
SIDE, CELL = 112, 37  # pixels of a picture and of a cell; three by three cells


def draw(pen: ImageDraw.ImageDraw, shape: str, colour: str, cell: int) -> None:
    "One shape in one of nine cells."
    x, y = CELL * (cell % 3) + 6, CELL * (cell // 3) + 6
    box, fill = (x, y, x + 25, y + 25), COLOURS[colour]
    if shape == "circle": pen.ellipse(box, fill=fill)
    elif shape == "square": pen.rectangle(box, fill=fill)
    else: pen.polygon([(x, y + 25), (x + 25, y + 25), (x + 12, y)], fill=fill)


def scene(rng: random.Random) -> list[tuple[str, str, int]]:
    "Shape, colour and cell of what is there: one circle, one to four squares, some triangles."
    shapes = ["circle"] + ["square"] * rng.randint(1, 4) + ["triangle"] * rng.randint(0, 3)
    return [(s, rng.choice(list(COLOURS)), cell) for s, cell in zip(shapes, rng.sample(range(9), len(shapes)), strict=True)]


def question(name: str, capability: str, asked: str, options: list[str], answer: str) -> dict:
    "A question with options, as a line of the file."
    letters = " ".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    text = f"{asked} Please select the correct answer from the following options: {letters}"
    said = {"question": text, "answer": f"Final: {answer}"}
    return {"id": f"{name}-{capability}", "images": [f"{name}.png"], "question_type": capability, **said}


def make(folder: Path, pictures: int = 48, seed: int = 0) -> None:
    "All pictures, and two questions about each."
    rng, lines = random.Random(seed), []
    for n in range(pictures):
        things, name, image = scene(rng), f"{n:02}", Image.new("RGB", (SIDE, SIDE), "#f4f4f0")
        for thing in things: draw(ImageDraw.Draw(image), *thing)
        image.quantize(8).save(folder / f"{name}.png", optimize=True)
        colours, squares = rng.sample(list(COLOURS), len(COLOURS)), sum(s == "square" for s, _, _ in things)
        lines.append(question(name, "find", "What colour is the circle?", colours, things[0][1]))
        lines.append(question(name, "count", "How many squares are there?", ["1", "2", "3", "4"], str(squares)))
    text = ",\n".join(json.dumps(line) for line in lines)
    (folder / "questions.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__": make(HERE)
