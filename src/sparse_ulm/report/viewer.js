
"use strict";
// Shows the maps that the page carries, by niivue; makes no request.
(() => {
  const section = document.getElementById("viewer");
  const chooser = document.getElementById("viewer-recording");
  const views = document.getElementById("viewer-view");
  const say = (id, text) => { document.getElementById(id).textContent = text; };

  // Matplotlib's "hot" at some places, opaque early: a vessel is often one voxel wide, and its edges are interpolated.
  const COLOURS = {
    R: [0, 150, 200, 255, 255, 255], G: [0, 10, 40, 110, 220, 255], B: [0, 0, 0, 0, 60, 255],
    A: [0, 90, 200, 255, 255, 255], I: [0, 20, 60, 128, 200, 255],
  };

  const niivueOf = () => new niivue.Niivue({
    backColor: [0, 0, 0, 1], dragAndDropEnabled: false, scrollRequiresFocus: true, isOrientationTextVisible: false,
    show3Dcrosshair: false, crosshairColor: [0.3, 0.6, 1, 0.7], crosshairWidth: 1, logLevel: "error",
    multiplanarPadPixels: 12,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS, loadingText: "",
  });

  const place = (holder) => (found) => {
    const turn = holder.dataset.turned === "1" ? -1 : 1;
    const [x, y, z] = [found.mm[0], turn * found.mm[1], turn * found.mm[2]].map((value) => value.toFixed(3));
    const density = Math.round(Math.pow(found.values[0].value, 3));
    const most = holder.dataset.joined === "1" ? "at most " : "";
    const unit = density === 1 ? holder.dataset.unit.replace(/s$/, "") : holder.dataset.unit;
    say("viewer-place", `x ${x}, y ${y}, z ${z} mm: ${most}${density} ${unit} in the voxel`);
  };

  const setView = (viewer, holder) => {
    const flat = holder.dataset.flat === "1";
    views.disabled = flat;
    const kind = flat ? "flat" : views.value;
    viewer.opts.multiplanarShowRender = kind === "both" ? niivue.SHOW_RENDER.ALWAYS : niivue.SHOW_RENDER.NEVER;
    viewer.opts.crosshairWidth = kind === "solid" || flat ? 0 : 1;
    viewer.setSliceType({
      solid: niivue.SLICE_TYPE.RENDER, flat: niivue.SLICE_TYPE.CORONAL,
      both: niivue.SLICE_TYPE.MULTIPLANAR, slices: niivue.SLICE_TYPE.MULTIPLANAR,
    }[kind]);
  };

  const show = async (viewer) => {
    section.dataset.state = "loading";
    chooser.disabled = true;
    const holder = document.getElementById(`volume-${chooser.value}`);
    const bytes = Uint8Array.from(atob(holder.textContent), (letter) => letter.charCodeAt(0));
    const volume = await niivue.NVImage.loadFromFile({
      file: new File([bytes], "density.nii.gz"), name: "density.nii.gz", colormap: "density",
      cal_min: 0, cal_max: 0.8 * Number(holder.dataset.largest),
    });
    while (viewer.volumes.length > 0) viewer.removeVolume(viewer.volumes[0]);
    viewer.addVolume(volume);
    viewer.onLocationChange = place(holder);
    setView(viewer, holder);
    // To the place of most bubbles: slices elsewhere are mostly empty.
    viewer.scene.crosshairPos = viewer.mm2frac(holder.dataset.busiest.split(" ").map(Number));
    viewer.createOnLocationChange();
    viewer.drawScene();
    const joined = holder.dataset.joined === "1"
      ? `The map is too large for a page: ${holder.dataset.factor} of its voxels are shown as one, by their largest value. ` : "";
    say("viewer-message", `${joined}Shown: ${holder.dataset.shape} voxels.`);
    chooser.disabled = false;
    section.dataset.state = "ready";
  };

  const fail = (error) => {
    section.dataset.state = "failed";
    chooser.disabled = false;
    say("viewer-message", `The viewer does not run in this browser (${error}). It wants WebGL 2. The pictures below show the map.`);
  };

  const start = async () => {
    const viewer = niivueOf();
    await viewer.attachToCanvas(document.getElementById("viewer-canvas"));
    viewer.addColormap("density", COLOURS);
    viewer.setRenderAzimuthElevation(20, 15);
    section.viewer = viewer;
    chooser.addEventListener("change", () => show(viewer).catch(fail));
    views.addEventListener("change", () => setView(viewer, document.getElementById(`volume-${chooser.value}`)));
    await show(viewer);
  };
  start().catch(fail);
})();
