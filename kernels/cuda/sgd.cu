// The optimizer's update of all parameter tensors in one launch over the flat buffers: with p, g, v of one element,
//   g' = gradient_scale * g + weight_decay * p,  v = momentum * v + g',  p -= rate * (nesterov ? g' + momentum * v : v)
// and every multiply-add that the CPU fuses fused, so that both give the same bits.
//
// A block of 256 threads for each 2048 elements of a segment, counted from the segment's own start; what no segment
// covers has no thread. Elements depend on nothing but themselves.
// DRAM: 20 bytes an element.
#include "lanes.cuh"
#include "spans.cuh"

constexpr int THREADS = 256;
constexpr int BLOCK = 2048;  // as in src/cuda/sgd.rs
constexpr int ROUNDS = BLOCK / THREADS / 4;

struct Rule {
  float learning_rate;
  float momentum;
  bool nesterov;
};

struct Factors {
  float gradient_scale;
  float weight_decay;
};

__device__ __forceinline__ void update(const Rule& rule, const Factors& of, float& p, float g, float& v) {
  const float gradient = fmaf(of.weight_decay, p, of.gradient_scale * g);
  v = fmaf(rule.momentum, v, gradient);
  const float step = rule.nesterov ? fmaf(rule.momentum, v, gradient) : v;
  p = fmaf(-rule.learning_rate, step, p);
}

// segments, factors: [count]; params, grads, velocity: the whole buffers.
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_f32(float learning_rate, float momentum, int nesterov, const CutSpan* segments, const Factors* factors,
            int count, float* params, const float* grads, float* velocity) {
  const Rule rule = {learning_rate, momentum, nesterov != 0};
  const int index = span_of(segments, count, blockIdx.x);
  const CutSpan segment = segments[index];
  const Factors of = factors[index];
  const long long first = (blockIdx.x - segment.first_block) * BLOCK + threadIdx.x * 4;
  float p[ROUNDS][4], g[ROUNDS][4], v[ROUNDS][4];
#pragma unroll
  for (int i = 0; i < ROUNDS; ++i) {
    const long long in_segment = first + i * THREADS * 4, at = segment.start + in_segment;
    load_lanes(p[i], params + at, segment.len - in_segment);
    load_lanes(g[i], grads + at, segment.len - in_segment);
    load_lanes(v[i], velocity + at, segment.len - in_segment);
  }
#pragma unroll
  for (int i = 0; i < ROUNDS; ++i) {
    const long long in_segment = first + i * THREADS * 4, at = segment.start + in_segment;
#pragma unroll
    for (int k = 0; k < 4; ++k) update(rule, of, p[i][k], g[i][k], v[i][k]);
    store_lanes(params + at, p[i], segment.len - in_segment);
    store_lanes(velocity + at, v[i], segment.len - in_segment);
  }
}
