"""Benchmarks of whole models, beside PyTorch and transformers.

    python -m chapters.bench step           # training steps of five sizes, with a breakdown by kernel
    python -m chapters.bench decode         # GPT-2 124M writes text, token by token
    python -m chapters.bench gpt2_step      # fine-tuning GPT-2 124M: time and memory
    python -m chapters.bench ranks          # training steps that several processes share: time, waiting and memory
    python -m chapters.bench gpu --device cuda --out check      # check and time everything on a GPU
    python -m chapters.bench all --json FILE    # training steps and kernels beside PyTorch and NumPy, in up to 15 minutes
    python -m chapters.bench table FILE …       # the tables of such files; without a file, those of ours below

`python -m kernels.bench` measures single kernels; its description says how both compare contestants. This is the one folder
of the floor that imports PyTorch and transformers. The files peer_*.py hold their models: peer_gpt2 and peer_llama are also
commands, with which chapter 9 verifies published weights.

Below are our files: two Zen 4 cores of a shared machine, and the same cores with AVX2 code in every library. The machine's
memory moved 31 to 53 GB/s from one minute to the next, so the shares of memory's speed are rough.

    PyTorch, NumPy    their time divided by ours, geometric means; * if PyTorch was mostly faster with AVX-512
    limit             our share of what registers (steps, products, attention) or memory (all others) allow
    AVX2, 1 thread    the share that AVX2 code and a single thread reach of their own limits
    faulty            above the limit of arithmetic, so the measurement is wrong, and the shares leave it out

    AMD EPYC (family 25, model 17); 2 threads, 16 floats a vector; PyTorch 2.13.0+cpu, NumPy 2.4.6
                                                            PyTorch  NumPy (worst)  limit (worst)  AVX2  1 thread
      training step, the main job's 0.3M (B = 8, T = 128)     1.85*                   43%     43%   35%       54%
      training step, 0.9M parameters (B = 16, T = 128)        1.38*                   66%     66%   68%       72%
      training step, 10.8M parameters (B = 8, T = 256)        1.23                    80%     80%   80%
      training step, GPT-2's 124M (B = 4, T = 256)            1.27                    80%     80%   76%
      the same at llm.c's setting (B = 4, T = 64)             1.61*                   75%     75%   71%
      products of the 10.8M and 124M steps, 24 shapes         1.12    1.08    0.94    87%     64%   87%           2 of 24 faulty
      causal attention, T = 256                               2.16*                   62%     62%   59%
      causal attention, T = 1,024                             1.90*                   77%     77%   74%
      causal attention, T = 4,096                             1.45                    85%     85%   85%
      softmax forward                                         0.78*                   61%     61%   86%
      softmax backward                                        1.03                   103%    103%  106%
      layernorm forward                                       0.78*                   98%     98%  100%
      layernorm backward                                      0.95*                   82%     82%   73%
      gelu forward                                            4.50*                  121%    121%   86%
      gelu backward                                           2.92                   105%    105%   88%
      cross-entropy forward                                   2.89*                   57%     57%   36%
      cross-entropy backward                                  2.21*                   97%     97%   98%
      AdamW, one array                                        1.10*                  169%    169%  159%
      AdamW, the book's GPT                                   0.93                   138%    138%  157%
      gradient norm                                           0.95                    82%     82%  103%
      one row times a matrix, 8 shapes                        1.80    1.19    0.89    94%     85%   95%

    AMD EPYC (family 25, model 17); 2 threads, 8 floats a vector; PyTorch 2.13.0+cpu, NumPy 2.4.6
                                                            PyTorch  NumPy (worst)  limit (worst)  AVX2  1 thread
      training step, the main job's 0.3M (B = 8, T = 128)     1.96                    43%     43%             56%
      training step, 0.9M parameters (B = 16, T = 128)        1.51                    61%     61%             73%
      training step, 10.8M parameters (B = 8, T = 256)        1.19                    79%     79%
      training step, GPT-2's 124M (B = 4, T = 256)            1.10                    76%     76%
      the same at llm.c's setting (B = 4, T = 64)             1.39                    74%     74%
      products of the 10.8M and 124M steps, 24 shapes         1.11    1.00    0.84    91%     78%                 2 of 24 faulty
      causal attention, T = 256                               1.99                    63%     63%
      causal attention, T = 1,024                             1.86                    76%     76%
      causal attention, T = 4,096                             1.42                    82%     82%
      softmax forward                                         1.99                    83%     83%
      softmax backward                                        1.07                    93%     93%
      layernorm forward                                       1.73                    92%     92%
      layernorm backward                                      1.11                    53%     53%
      gelu forward                                            5.00                    54%     54%
      gelu backward                                           3.74                    59%     59%
      cross-entropy forward                                   2.56                    55%     55%
      cross-entropy backward                                  6.92                    96%     96%
      AdamW, one array                                        1.02                   167%    167%
      AdamW, the book's GPT                                   1.05                   155%    155%
      gradient norm                                           1.55                   117%    117%
      one row times a matrix, 8 shapes                        1.96    1.14    0.91    91%     81%

A share above 100 % of memory's speed is possible: AdamW writes to cache lines that it has just read, a copy has to fetch them.
For layernorm, GELU and cross-entropy PyTorch allocates its results. At times the system had to clear new pages for them, and
then PyTorch took 4 to 14 times as long as we did.

Softmax, layernorm and cross-entropy are faster since. Of a copy's speed, softmax forward now reaches 106 % (as AVX2 code 77 to
97), layernorm forward 89 to 100 (82 to 115) and backward 71 to 90 (75 to 97); of a read's speed, cross-entropy forward reaches
61 to 95 % (50 to 77).

On two Zen 3 cores (AVX2), PyTorch's steps took 1.6, 1.4 and 1.5 times as long as an earlier version's, for 0.9M, 10.8M and 124M
parameters. Token by token, GPT-2 writes 2.4 times as fast as in transformers, and with int8 weights 6.5 times (Zen 5).
"""
