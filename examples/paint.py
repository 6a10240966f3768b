"""Paint a clip frame by frame and keep the frames that began a new shot. Usage: python paint.py IN OUT [PROMPT]"""

import sys

import flowguide

source, output = sys.argv[1:3]
config = flowguide.render_config(prompt=sys.argv[3] if len(sys.argv) > 3 else "oil painting", size="128", max_frames=8)
with flowguide.ClipReader(source, size=config.size, max_frames=config.max_frames) as reader:
    info = reader.info
    with flowguide.ClipWriter(output, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate) as writer:
        for styled in flowguide.Renderer(config)(reader):
            writer.write(styled.frame())
            print(styled.source.index, f"{styled.source.seconds:.3f} s", styled.confident_share)
