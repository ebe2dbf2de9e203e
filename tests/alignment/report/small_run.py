"""The files of a small run: two evaluation prompts, two SFT steps and three on-policy steps."""

CONFIG = {
    "name": "small",
    "seed": 3,
    "model": {"name": "tiny"},
    "data": {"path": "demonstrations.jsonl", "held_out_fraction": 0.1},
    "sft": {"steps": 2, "prompts_per_step": 4, "learning_rate": 1e-4},
    "objective": {
        "divergence": "reverse_kl",
        "steps": 3,
        "prompts_per_step": 2,
        "group_size": 4,
        "learning_rate": 1e-6,
        "max_staleness_steps": 0,
    },
    "discriminator": {"num_workers": 1, "warm_up_steps": 1},
    "evaluation": {"patterns": {"archaic": r"\b(thou|thee)\b"}},
}

METRICS = [
    {"step": 0, "stage": "sft", "time_s": 1, "eval/held_out_nll": 4},
    {"step": 1, "stage": "sft", "time_s": 5, "learner/tokens_per_s": 100.0},
    {"step": 2, "stage": "sft", "time_s": 9, "eval/held_out_nll": 3.0},
    {"step": 3, "stage": "discriminator_warm_up", "time_s": 12, "discriminator/accuracy_fresh": 1},
    *(
        {
            "step": 4 + index,
            "stage": "on_policy",
            "time_s": 20 + 10 * index,
            "learner/tokens_per_s": speed,
            "learner/entropy": 1.0,
            "rollout/tokens_per_s": speed / 2,
            "discriminator/accuracy_fresh": accuracy,
            "discriminator/auc_fresh": accuracy,
            "discriminator/jensen_shannon_estimate": accuracy / 4,
            "time/sampling_s": 6.0,
            "time/learning_s": 3.0,
            "time/waiting_s": 1.0,
            "time/step_s": 10.0,
        }
        for index, (speed, accuracy) in enumerate([(110.0, 0.9), (120.0, 0.65), (500.0, 0.55)])
    ),
    {"step": 6, "stage": "on_policy", "time_s": 65.5, "eval/held_out_nll": 2.5},
]

PROMPTS = ["I see you", "you see me"]
EXPERT = ["I see thee", "thou seest me"]
RESPONSES = {
    "before": ["i see you!", "go on"],
    "after_sft": ["I see you now", "thou seest"],
    "after": ["I see thee", "Thou, see me"],
}


def samples():
    return [
        {
            "phase": phase,
            "prompt_id": 10 + index,
            "prompt": PROMPTS[index],
            "expert": EXPERT[index],
            "response": response,
            "finish_reason": "LENGTH" if response == "go on" else "STOP",
        }
        for phase, responses in RESPONSES.items()
        for index, response in enumerate(responses)
    ]
