// What every file here shares: the host+device marker and the namespace of one instruction set.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FG_HD __host__ __device__ __forceinline__
#else
#define FG_HD inline __attribute__((always_inline))
#endif

// Each instruction set compiles the same files into a namespace of its own, so that the linker cannot mix them.
#ifndef FG_ISA
#define FG_ISA base
#endif

namespace flowguide::FG_ISA {

constexpr float kFarthest = 4194304.0f;  // 2^22, as FARTHEST_PX of reference.py

FG_HD float minimum(float a, float b) { return b < a ? b : a; }
FG_HD float maximum(float a, float b) { return b > a ? b : a; }
FG_HD float select(bool condition, float a, float b) { return condition ? a : b; }
FG_HD float rounded_down(float value) { return floorf(value); }
FG_HD bool is_finite(float value) { return value - value == 0.0f; }
FG_HD int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }
FG_HD int64_t larger(int64_t a, int64_t b) { return b > a ? b : a; }

}  // namespace flowguide::FG_ISA
