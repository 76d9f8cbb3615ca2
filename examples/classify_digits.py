"""Classifies handwritten digits by a served model, over gRPC and over REST, as an outsider would.

It knows nothing of LoomOS: NVIDIA's Triton client speaks the Open Inference Protocol to it.

    LOOMOS_TOKEN=… uv run --isolated --no-project --with 'tritonclient[all]' --with scikit-learn \
        python classify_digits.py --model acme.vision.digits \
        --grpc 127.0.0.1:9001 --rest https://127.0.0.1:9002 --ca ca.crt
"""

import argparse
import json
import os
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from sklearn.datasets import load_digits

HELD_OUT = 360
SHADES = " .:-=+*#%@"


def held_out(seed):
    """The images that train_digits.py never showed to the model, and what they are."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))[:HELD_OUT]
    return images[order].astype(np.float32), labels[order]


def over_grpc(given, headers):
    """A client, and what it calls an input and an output, for gRPC."""
    client = tritonclient.grpc.InferenceServerClient(
        given.grpc, ssl=True, root_certificates=given.ca
    )
    return client, tritonclient.grpc, {"headers": headers, "client_timeout": 30.0}


def over_rest(given, headers):
    """The same for REST, with binary tensors."""
    client = tritonclient.http.InferenceServerClient(
        given.rest.removeprefix("https://"), ssl=True, ssl_options={"ca_certs": given.ca}
    )
    return client, tritonclient.http, {"headers": headers}


def classify(client, kind, how, model, images):
    """The label of each image."""
    tensor = kind.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images)
    wanted = [kind.InferRequestedOutput("label")]
    answer = client.infer(model, [tensor], outputs=wanted, **how)
    return answer.as_numpy("label")


def drawn(image):
    """An image as eight lines of characters."""
    return "\n".join(
        "".join(SHADES[int(v * 9 / 16)] * 2 for v in row) for row in image.reshape(8, 8)
    )


def main():
    """Classifies, prints, and fails where a door disagrees or the accuracy is too low."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--grpc", required=True, help="host:port")
    parser.add_argument("--rest", required=True, help="https://host:port")
    parser.add_argument("--ca", required=True, help="the platform's CA certificate, PEM")
    parser.add_argument("--seed", type=int, default=7, help="the seed of the training job")
    parser.add_argument("--accuracy-min", type=float, default=0.8)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    headers = {"authorization": f"Bearer {os.environ['LOOMOS_TOKEN']}"}
    images, labels = held_out(given.seed)
    found = {}
    for door, opened in (("grpc", over_grpc), ("rest", over_rest)):
        client, kind, how = opened(given, headers)
        if not client.is_model_ready(given.model, headers=headers):
            sys.exit(f"{door}: {given.model} is not ready")
        found[door] = classify(client, kind, how, given.model, images)
        client.close()
    accuracy = {door: float(np.mean(answer == labels)) for door, answer in found.items()}
    if given.json:
        first = [int(label) for label in found["grpc"][:8]]
        print(json.dumps({"images": len(labels), "accuracy": accuracy, "first": first}))
    else:
        print(drawn(images[0]))
        print(f"is a {labels[0]}; the model says {found['grpc'][0]}")
        for door, share in accuracy.items():
            print(f"{door}: {len(labels)} digits that it never saw, {share:.1%} right")
    same = np.array_equal(found["grpc"], found["rest"])
    sys.exit(0 if same and min(accuracy.values()) >= given.accuracy_min else 1)


if __name__ == "__main__":
    main()
