// Launching over pixels on the caller's stream.
#pragma once
#include <cuda_runtime.h>

#include "image.h"
#include "operations.h"

namespace flowguide::FG_ISA {

constexpr int kThreads = 256;

// The index of this thread among all of a launch.
__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

inline unsigned blocks_for(int64_t threads) { return unsigned((threads + kThreads - 1) / kThreads); }

// Null, or what went wrong with the last launch.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace flowguide::FG_ISA
