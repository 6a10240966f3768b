// The arguments of every operation as plain pointers and sizes, and the table of one instruction set's functions.
// Tensors are dense, batch first; absent ones are null. Meanings: flowguide/ops.py.
#pragma once
#include <cstdint>

namespace flowguide {

enum Border : int { kEdge = 0, kZero = 1, kReflect = 2, kWrap = 3 };
enum Storage : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

struct WarpArguments {
  const float* image;
  const float* flow;
  float* out;
  int64_t rows, channels, height, width;
  int taps, border;  // 2, 4 or 6 along each axis
};

struct PredictArguments {
  const float *reference, *flow, *flow_back, *source_at, *source_to, *given_confidence;
  float *prior, *confidence, *flow_latent, *confidence_latent;
  int64_t rows, channels, source_channels, height, width, cell;
  int taps, boundary;  // taps: 2, 4 or 6 along each axis
  float relative, allowed_px2, softness, boundary_relative, boundary_absolute;
  float photometric;  // not above 0: not looked at
};

struct ComposeArguments {
  const float *flow_ab, *flow_bc, *confidence_ab, *confidence_bc;
  float *flow_ac, *confidence;
  int64_t rows, height, width;
};

struct CompositeArguments {
  const float *priors, *confidences;
  float *prior, *confidence;
  int64_t rows, references, channels, height, width;
  int best;
};

struct FillArguments {
  const float *prior, *confidence;
  float* out;
  int64_t rows, channels, height, width;
};

struct GuidedStepArguments {  // void: elements of `storage`
  const void *x, *model_output, *model_output_uncond, *k0, *x0_prev, *noise;
  const float *coefficients, *weight;  // [rows, 9], [rows, height, width]
  void *x_next, *x0;
  int64_t rows, channels, height, width;
  int storage, erode;
};

struct CarryNoiseArguments {
  const float *noise, *flow, *fresh;
  float *carried, *latent;
  int64_t rows, channels, height, width, cell;
};

struct PasteArguments {
  const float *generated, *prior, *confidence;
  float* out;
  int64_t rows, channels, height, width, feather_px;
  int multiband;
  float weight;
};

// How a surface is coded: luma_zero + luma_span * Y', both in units of `unit`; likewise chroma.
struct Code {
  float k_r, k_b, luma_zero, luma_span, chroma_zero, chroma_span, largest, unit;
};

struct ToModelArguments {  // strides in elements
  const void *surface, *chroma;  // RGB, or luma and (Cb, Cr) pairs; uint16 if `wide`
  float* out;
  int64_t rows, height, width, stride_n, stride_c, stride_y, stride_x, chroma_stride_n, chroma_stride_y;
  int64_t to_height, to_width, padded_height, padded_width;
  int wide;
  Code code;
};

struct FromModelArguments {
  const float* image;
  void *surface, *chroma;  // chroma null: RGB
  int64_t rows, padded_height, padded_width, height, width;
  int wide;
  Code code;
};

struct Operations {
  void (*warp)(const WarpArguments&, int threads);
  void (*predict)(const PredictArguments&, int threads);
  void (*compose)(const ComposeArguments&, int threads);
  void (*composite)(const CompositeArguments&, int threads);
  void (*fill)(const FillArguments&, int threads);
  void (*guided_step)(const GuidedStepArguments&, int threads);
  void (*carry_noise)(const CarryNoiseArguments&, int threads);
  void (*paste)(const PasteArguments&, int threads);
  void (*to_model)(const ToModelArguments&, int threads);
  void (*from_model)(const FromModelArguments&, int threads);
};

namespace base {
extern const Operations operations;
}
namespace avx2 {  // where built: csrc/isa.cpp
extern const Operations operations;
}
namespace avx512 {
extern const Operations operations;
}

#ifdef FG_HAVE_CUDA
// Queued on the caller's stream; return null, or what went wrong with the launch.
const char* warp_cuda(const WarpArguments&, void* stream);
const char* predict_cuda(const PredictArguments&, void* stream);
const char* to_model_cuda(const ToModelArguments&, float* scratch, void* stream);
const char* from_model_cuda(const FromModelArguments&, void* stream);
#endif

// The functions of the instruction set in force, its name, and a way to force another ("" for the best).
const Operations& operations();
const char* isa();
bool use_isa(const char* name);

}  // namespace flowguide
