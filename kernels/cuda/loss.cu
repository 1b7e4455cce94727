// Softmax cross-entropy of logits [N, classes], fp32, with label smoothing and two classes a sample: loss, gradient and
// hits. Exponentials are fp32, their sums and what is made of them fp64.
//
// Order: a sample's sums go over its classes, thread t taking t, t + ROW_THREADS, ..., then over the binary tree of
// threads. A slice's sums go over its samples, lane l taking l, l + 32, ..., then over the binary tree of lanes, and
// are rounded to fp32; slices are added over their binary tree, 0 to 1, 2 to 3, then these two sums, and so on.
//
// Bytes of DRAM: 8 for each logit; what is read or written again is still in the cache.
#include "block.cuh"
#include "math.cuh"

constexpr int ROW_THREADS = 256;
constexpr u32 IGNORED = 0xFFFFFFFFu;

// The largest of some logits, passing over NaN, and the first class that has it.
struct Largest {
  float logit;
  int category;
  int has_nan;
};

struct Larger {
  __device__ __forceinline__ Largest operator()(const Largest& a, const Largest& b) const {
    const bool take_b = b.logit > a.logit || (b.logit == a.logit && b.category < a.category);
    return {take_b ? b.logit : a.logit, take_b ? b.category : a.category, a.has_nan | b.has_nan};
  }
};

struct Sums {
  double exponentials, shifted;
};

struct AddSums {
  __device__ __forceinline__ Sums operator()(const Sums& a, const Sums& b) const {
    return {a.exponentials + b.exponentials, a.shifted + b.shifted};
  }
};

__device__ __forceinline__ Largest largest_of_thread(const float* logits, int classes) {
  Largest largest = {-__uint_as_float(0x7F800000u), 0x7FFFFFFF, 0};
  for (int c = int(threadIdx.x); c < classes; c += ROW_THREADS) {
    const float logit = logits[c];
    largest = Larger()(largest, {logit, c, logit != logit});
  }
  return largest;
}

// A block per sample. own, other [N]: classes, of which the other one counts where a sample was mixed; lambda [slices]:
// the own one's weight. Into losses [N] fp64 and hits [N].
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    softmax_cross_entropy(const float* logits, const u32* own, const u32* other, const float* lambda, float* d_logits,
                          double* losses, float* hits, int classes, int slice_batch, float label_smoothing,
                          float grad_scale) {
  SHARED_ARRAY(Largest, largest_of_row, 1);
  SHARED_ARRAY(double, exponentials_of_row, 1);
  const int sample = int(blockIdx.x);
  logits += (long long)sample * classes;
  d_logits += (long long)sample * classes;
  if (own[sample] == IGNORED) {
    for (int c = int(threadIdx.x); c < classes; c += ROW_THREADS) d_logits[c] = 0.f;
    if (threadIdx.x == 0) losses[sample] = 0.0, hits[sample] = 0.f;
    return;
  }
  const Largest found = over_block<ROW_THREADS>(largest_of_thread(logits, classes), Larger());
  if (threadIdx.x == 0) largest_of_row[0] = found;
  __syncthreads();
  // Shifting by the largest logit keeps every exponential in (0, 1].
  const Largest largest = largest_of_row[0];
  Sums sums = {0.0, 0.0};
  for (int c = int(threadIdx.x); c < classes; c += ROW_THREADS) {
    const float shifted = logits[c] - largest.logit;
    const float exponential = exp_f32(shifted);
    d_logits[c] = exponential;
    sums = AddSums()(sums, {double(exponential), double(shifted)});
  }
  sums = over_block<ROW_THREADS>(sums, AddSums());
  if (threadIdx.x == 0) exponentials_of_row[0] = sums.exponentials;
  __syncthreads();

  const double exponentials = exponentials_of_row[0];
  const double weight = double(lambda[sample / slice_batch]), other_weight = 1.0 - weight;
  const int own_class = int(own[sample]), other_class = int(other[sample]);
  const double sharp = 1.0 - double(label_smoothing), background = double(label_smoothing) / double(classes);
  for (int c = int(threadIdx.x); c < classes; c += ROW_THREADS) {
    const double hit = (c == own_class ? weight : 0.0) + (c == other_class ? other_weight : 0.0);
    const double target = sharp * hit + background;
    d_logits[c] = float(double(grad_scale) * (double(d_logits[c]) / exponentials - target));
  }
  if (threadIdx.x > 0) return;
  const double of_own = weight * double(logits[own_class] - largest.logit);
  const double of_other = other_weight * double(logits[other_class] - largest.logit);
  losses[sample] = log_f64(exponentials) - sharp * (of_own + of_other) - background * sums.shifted;
  // Asked for is the class of the larger weight. A diverged sample is right about nothing.
  const int asked = weight >= 0.5 ? own_class : other_class;
  hits[sample] = !largest.has_nan && largest.category == asked ? 1.f : 0.f;
}

// sums[0] = that of losses, sums[1] = that of hits. Block (32, slices).
extern "C" __global__ void softmax_cross_entropy_sum(const double* losses, const float* hits, float* sums,
                                                     int slice_batch) {
  SHARED_ARRAY(float, of_slices, 2 * 32);
  const int slice = int(threadIdx.y), slices = int(blockDim.y);
  double loss = 0.0, count = 0.0;
  for (int i = int(threadIdx.x); i < slice_batch; i += 32) {
    loss += losses[slice * slice_batch + i];
    count += double(hits[slice * slice_batch + i]);
  }
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    loss += __shfl_down_sync(0xFFFFFFFFu, loss, apart);
    count += __shfl_down_sync(0xFFFFFFFFu, count, apart);
  }
  float* mine = of_slices + 2 * slice;
  const bool adds = threadIdx.x == 0;
  if (adds) mine[0] = float(loss), mine[1] = float(count);
  for (int apart = 1; apart < slices; apart *= 2) {
    __syncthreads();
    if (adds && slice % (2 * apart) == 0) mine[0] += mine[2 * apart], mine[1] += mine[2 * apart + 1];
  }
  if (adds && slice == 0) sums[0] = mine[0], sums[1] = mine[1];
}
