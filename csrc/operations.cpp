// The table of one instruction set; compiled once for each.
#include "operations.h"

#include "image.h"

namespace flowguide::FG_ISA {

void warp(const WarpArguments&, int threads);
void predict(const PredictArguments&, int threads);
void compose(const ComposeArguments&, int threads);
void composite(const CompositeArguments&, int threads);
void fill(const FillArguments&, int threads);
void guided_step(const GuidedStepArguments&, int threads);
void carry_noise(const CarryNoiseArguments&, int threads);
void paste(const PasteArguments&, int threads);
void to_model(const ToModelArguments&, int threads);
void from_model(const FromModelArguments&, int threads);

extern const Operations operations;  // else a const has internal linkage
const Operations operations = {warp,        predict,     compose, composite, fill,
                               guided_step, carry_noise, paste,   to_model,  from_model};

}  // namespace flowguide::FG_ISA
