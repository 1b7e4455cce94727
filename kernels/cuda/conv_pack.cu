// Weights [kernel, kernel, C_in, C_out] in fp32 to the operands of the forward pass, [C_out, kernel, kernel, C_in], and of the
// input gradient, [C_in, kernel, kernel, C_out], in T, with zeros behind the last axis up to a multiple of 8.
//
// Grid: x counts squares of 32 x 32 (C_in, C_out), those of C_out first; y is the tap. Block: 32 x 8. A square goes through
// shared memory, so that all three are read and written along their last axis. Predicted bytes: 4 + 2 size(T) a weight.
#include "conv.cuh"

constexpr int SIDE = 32;

template <typename T>
__device__ __forceinline__ void pack(const float* weight, T* forward, T* input_grad, int taps, int inputs, int outputs) {
  SHARED_ARRAY(float, square, SIDE * (SIDE + 1));
  const int across = divide_up(padded(outputs), SIDE), tap = blockIdx.y;
  const int first_input = blockIdx.x / across * SIDE, first_output = blockIdx.x % across * SIDE;
  for (int y = threadIdx.y; y < SIDE; y += blockDim.y) {
    const int input = first_input + y, output = first_output + threadIdx.x;
    const bool is_weight = input < inputs && output < outputs;
    const float value = is_weight ? weight[((long long)tap * inputs + input) * outputs + output] : 0.f;
    square[y * (SIDE + 1) + threadIdx.x] = value;
    if (input < inputs && output < padded(outputs))
      round_to(input_grad[((long long)input * taps + tap) * padded(outputs) + output], value);
  }
  __syncthreads();
  for (int y = threadIdx.y; y < SIDE; y += blockDim.y) {
    const int input = first_input + threadIdx.x, output = first_output + y;
    if (output < outputs && input < padded(inputs))
      round_to(forward[((long long)output * taps + tap) * padded(inputs) + input], square[threadIdx.x * (SIDE + 1) + y]);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    conv_pack_f32(const float* weight, float* forward, float* input_grad, int taps, int inputs, int outputs) {
  pack(weight, forward, input_grad, taps, inputs, outputs);
}
extern "C" __global__ void __launch_bounds__(256)
    conv_pack_bf16(const float* weight, bf16* forward, bf16* input_grad, int taps, int inputs, int outputs) {
  pack(weight, forward, input_grad, taps, inputs, outputs);
}
