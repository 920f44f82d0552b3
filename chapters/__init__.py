"""The book's stages. Each file is a lesson to read, import and run: `python -m chapters.ch01_tokenizer --help`.

    file                        what it builds                              what to look at when it runs
    ch01_tokenizer              byte-pair encoding                          the first merges; one sentence in ever fewer tokens
    ch02_dataset                next-token batches                          targets: the inputs, shifted by one
    ch03_embeddings             token and position vectors                  without positions, abc and cba are the same
    ch04_attention              one head by hand, then all heads            figures/attention.png: which letter attends to which
    ch05_block                  norm, attention, MLP, residual stream       gradients by depth, with residuals and without
    ch06_gpt                    the GPT and its KV cache                    parameters by part; an initial loss of about ln V
    ch07_train                  the training loop                           figures/loss.png; resume, and compare metrics.jsonl
    ch08_sample                 temperature, top-k, nucleus                 one prompt at temperatures 0.2 and 1.2
    ch09/gpt2, ch09/smollm2     published weights in chapter 6's GPT        --verify: every layer beside transformers
    ch09/decode                 decoding at the speed of memory             tokens per second, in float32 and in int8
    ch10/classify               first bend: a class head                    the same head on an untrained body
    ch10/sft                    instruction tuning                          the prompt mask and its seam
    ch10/lora                   low-rank tuning of a large body             how few parameters are trained
    ch10/exercises              the chapter's four exercises                mask against no mask
    ch10/demonstrations         second bend: the assistant                  good and bad manners, as often as in the data
    ch10/reward                 a reward model from comparisons             accuracy beside the labeller's noise ceiling
    ch10/rollout, ppo, rlhf     PPO against that reward model               preference and KL as training goes on
    ch10/rloo, dpo, best_of_n   the alternatives                            each one's preference and KL
    ch10/frontier               all of them on one page                     figures/frontier.png
    ch10/constitution           critique, revision, AI feedback             edit a principle, and see the model follow
    ch10/headlines              seven papers in miniature                   what reproduces, and what does not
    ch10/reflex                 sums at once and step by step               accuracy by number of steps
    chat                        a conversation with any of the models       tokens per second

The rest serves the lessons:

    main_job/    `python -m chapters`: every stage above on the little world, and a page of results
    world/       the little world: facts, documents, tasks, and the simulated judge (`python -m chapters.world` shows samples)
    support/     command lines, run folders, checkpoints, readers of a user's files, figures
    ch09/        decoder, weights and load are the library behind chapter 9's lessons
    ch10/        assess compares two policies; figures and preference_figures draw
    bench/       whole-model benchmarks beside PyTorch and transformers: `python -m chapters.bench`

A file imports only earlier lessons, `support` and `world`.
"""
