"""Every setting of a pretraining run, as typed dataclasses without torch, so that ``--help`` is quick."""

from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["auto", "bf16-mixed", "16-mixed", "32-true"]


@dataclass
class BackboneOptions:
    """The network to train.

    Args:
        name: any timm model that yields features, such as resnet18 or vit_small_patch16_224; torchvision:resnet50;
            hf:USER/NAME or hf:FOLDER (transformers); package.module:function, which returns an nn.Module.
        stem: for ResNets: cifar is a 3x3 stem without max-pool, imagenet leaves the model as it is, auto takes
            cifar for images below 64 pixels.
        pretrained: start from the weights of timm, torchvision or the hub.
        keywords: further arguments of timm.create_model, torchvision's model, the configuration (hf:) or the function;
            --backbone.channels [16,32,64,128] is short for --backbone.keywords.channels.
        module: in Python, an nn.Module in place of a name; every run trains a copy.
    """

    name: str = "resnet18"
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    pretrained: bool = False
    keywords: dict[str, Any] = field(default_factory=dict)
    module: Any = None

    def __post_init__(self) -> None:
        if self.module is not None:  # what a run folder says of it
            self.name = f"object:{type(self.module).__module__}.{type(self.module).__qualname__}"


@dataclass
class PretrainOptions:
    """Pretrains a backbone without labels on the hardest of several random views of every image.

    Args:
        data: a folder of images, a Parquet table, WebDataset shards ('shards/{000..099}.tar'), a data set of Hugging
            Face's library (hf:USER/NAME), a torchvision data set's name, or shapes (built in). Streams:
            https://HOST/{000..099}.tar, pipe:COMMAND, hf-stream:USER/NAME (docs/large-data.md). Without --data the
            built-in demonstration runs.
        test_data: labelled data for the kNN accuracy; by default the test split of a named set, else --data itself if
            it has labels, as --knn-test says.
        recipe: a published run, or settings for small sets, whose options all others replace (hardviews recipes lists
            them). Without this, a method, a backbone or a plan, sets of up to 10,000 images take small_rgb,
            grey_medical, ct or multispectral, by their channels and values; none takes the defaults below.
        data_root: where torchvision's data sets lie.
        download: let torchvision fetch a data set that is not there.
        image_column: the table's column of encoded images.
        label_column: the table's column of labels, used for the kNN accuracy only.
        tile: cuts every image into squares of this side in pixels, each an image of its own, read without the rest
            where the format allows (docs/formats.md); 0 leaves images whole.
        frames: of a file of several frames or slices: first, or all, each an image of its own.
        epoch_images: images per epoch, for streams of unknown length.
        shuffle_bytes: size of a process's buffer that shuffles a stream's encoded images; by default 256 MiB.
        allow_pipe: let --data pipe:COMMAND run a shell; only on the command line, not in a file of settings.
        channels: auto looks at a sample of the data: images of 8 bits and 1 or 3 channels are RGB, others are read as
            they are stored. rgb converts every image to 8-bit RGB. A number: images have this many channels as stored,
            which are not RGB, and others count as unreadable (docs/channels.md). Streams are rgb unless a number is
            given.
        value_range: stored values that become 0 and 1; what lies outside is cut. LOW,HIGH; or a pair for each channel;
            auto: the 0.1 and 99.9 percentiles of a sample, once for all images; percentile(1,99): of each image by
            itself; a window of CT: abdomen, bone, brain, liver, lung, mediastinum, soft_tissue. By default 0,255 for
            8 bits and auto for others.
        pixels: what a run has found of channels, type and range, as its config.yaml holds it; not looked for again.
        out: the run folder; a folder of an unfinished run resumes where it stopped. By default runs/TIME-METHOD-DATA.
        method: a method's name, or package.module.Class for one of your own, and arguments of its constructor.
        plan: arguments of the method's view plan.
        backbone: the network to train.
        init: weights the backbone starts from: a run's folder, a file (timm, torch, safetensors, Lightning, MoCo, an
            official DINO or iBOT checkpoint), or a named model with pretrained weights. What fits by name and shape is
            loaded, and the run prints what did and what did not.
        extend: a run's folder. Continues from its weights, optimizer and step in another folder (--out), with more
            --epochs, another --lr or other settings. Other settings are taken from that run, which is not changed.
            Backbone, method and optimizer can't change.
        extend_schedule: of the learning rate. restart (the default): a new cycle, which rises linearly from the last
            rate to --lr over --warmup-epochs (by default a tenth of the added epochs) and falls by half a cosine to
            --min-lr. stretch: the schedule of a run that had this many epochs from the beginning.
        views: candidates drawn per image, one number or one per kind of view (2,2,16); by default what the method's
            plan draws. With as many as are kept, this is the method without hard views.
        policy: which candidates to train on: hardest, easiest, random, sampled(64), lowest_iou, highest_iou,
            unexpected(1), which subtracts what the augmentations' strength predicts; learnable, the student's cost
            minus the momentum teacher's; learnable(0.99), minus that of a moving average of the weights; rescue(4), the
            hardest, but only for the easiest quarter of the images.
        min_contrast: a guard against empty views, for every policy, in steps that select: candidates whose contrast is
            below this part of the mean of the image's candidates are kept only if too few others remain; 0 is off.
        select_from: views are selected from this part of the run on (0.2: after a fifth of the steps); earlier steps
            take the views of the plain method.
        select_until: views are selected until this part of the run.
        scoring: fast scores candidates of 64 pixels or more at half their size (networks of patches) or three quarters
            (others), which takes less time and finds slightly less hard views; exact scores at full size, as published.
            The options --score-... change parts of either.
        score_resolution: candidates are scored at this part of the size that training gives them.
        score_network: which network scores candidates. student: as in training; teacher: the momentum teacher, in place
            of both networks; teacher_targets: the teacher, for target views only (local crops are not selected).
        score_every: choose at every N-th step, and take plain views in between.
        score_token_keep: a ViT scores on this part of its patches, drawn at random.
        score_depth: candidates pass this part of the backbone's stages or blocks (of timm only); a linear map, learned
            while training, predicts the features of the whole. Not for methods that compare patches.
        score_reuse: use the encodings of targets again in training, if that is exact.
        score_chunk: images encoded at once when scoring, for less memory; only for networks without BN. 0 is all.
        score_once: train on what scoring has computed instead of encoding kept views again: less time, the same
            gradients, more memory. Scores exactly; for backbones without BN and drop-path.
        crops: how crops are drawn, also without selection. independent: one by one; joint_crop(0): areas of a pair far
            apart (JointCrop); contrastive_crop(0.6): centres away from the middle (SimCCrop).
        colour: matrix (one colour matrix and one clamp per view) or exact (torchvision's steps to the letter, slower).
        image_size: side of a view in pixels; by default the images' own size if all are small squares, else 224.
        train_resolution: views are trained on at this part of their size, for less time, until full-resolution-from
            (FastDINOv2); evaluation is always at full size. 1 is full size throughout.
        full_resolution_from: from this part of the run on, views have their full size.
        mean: per channel, of pixels in 0..1; auto measures it on a sample. By default that of the pretrained weights;
            without any, ImageNet's for RGB and auto for others.
        std: per channel, as mean.
        batch_size: images per step, over all processes; auto takes the most that fit in memory, found by probe steps
            before the run: processes x grad-accumulation x a power of two, at most 4096; config.yaml records it.
        grad_accumulation: micro-batches that a process splits its part of a batch into, for less memory.
        epochs: passes over the data.
        seed: of weights, order, views and choices.
        optimizer: sgd, lars or adamw; by default the method's.
        lr: learning rate per 256 images; by default the method's.
        layer_decay: the learning rate of a layer of the backbone (of timm only) is this part of that of the next one;
            for backbones that begin with the weights of others, 0.65 to 0.9. 1 is the same rate for all.
        min_lr: rate at the end of the cosine schedule, whatever the batch.
        weight_decay: by default the method's.
        weight_decay_end: weight decay at the end of the run, reached by half a cosine; by default the method's, or no
            change.
        clip: norm that gradients are clipped to, 0 for none; by default the method's.
        clip_mode: parameter clips each parameter's gradient by its own norm, all clips all gradients by their joint
            norm; by default the method's.
        momentum: for sgd and lars.
        warmup_epochs: epochs of linear warm-up; by default the method's, at most a tenth of the run.
        decay_bias_and_norm: whether weight decay applies to biases and norms too; by default the method's.
        accelerator: cpu, cuda, or auto, which takes CUDA where it is available.
        devices: processes on this machine; torchrun and Slurm override it.
        nodes: machines; without torchrun or Slurm, each needs MASTER_ADDR, MASTER_PORT and its own NODE_RANK in the
            environment.
        strategy: of several processes. ddp: each has all weights; fsdp: blocks of backbones, their gradients and
            optimizer state are sharded (FSDP2), for large backbones. The probe steps of --doctor and --batch-size auto
            need all weights in one process.
        precision: auto is bf16 where the device is fast at it, else fp16 with a scaler on GPUs, else fp32.
        channels_last: memory layout of images; auto is on.
        compile: compile the backbones by torch.compile, which takes some minutes at first (and made no measured run on
            CPUs faster).
        deterministic: on a GPU, use deterministic kernels only: slower, but a run repeats and resumes bit for bit on
            the same machine and versions. On a CPU it always does.
        workers: processes that decode images, per training process.
        decode_size: larger pictures are shrunk while decoding until their shorter side has this many pixels; by default
            twice the image size.
        max_batch_bytes: limit on the decoded pixels of one batch of a process.
        max_unreadable: the run ends when more than this part of the data, and more than one image, can't be read; with
            0 by the first.
        in_memory: on holds all decoded images in memory (as large as --decode-size leaves them); auto does so for small
            images of one size, up to 512 MB. Up to 512 MB are held on the GPU if there is one.
        checkpoint_steps: also save a checkpoint every N steps; 0 saves at the end of epochs only.
        keep_epochs: keep the checkpoint of every N-th epoch for good, besides the last two; 0 keeps none.
        max_nonfinite_steps: steps in a row that may be skipped because the loss or a gradient is not finite. After
            more, the run goes back to its last checkpoint, once, at a tenth of the learning rate.
        knn_epochs: measure the kNN accuracy every N epochs, if there are labels, and at the end; 0 never.
        knn_bank: at most this many labelled images, the same share of every class, are neighbours in the kNN accuracy,
            and at most as many test images are measured; 0 takes all. By default 50,000 (all of CIFAR; of ImageNet 50
            of every class, and all of its validation set); a run that resumes keeps its own number.
        knn_test: what is tested of labelled data without test data. leave_one_out: every image, by the votes of all
            others; tenth: a tenth, which does not vote. Either way it is trained on, without its labels. By default
            leave_one_out for up to 5,000 images; a run that resumes keeps its own.
        crop: side of the central crop that kNN is measured on, as a part of the shorter side; by default 1 for small
            images, else 0.875.
        knn_k: neighbours that vote.
        knn_temperature: of the votes.
        log_steps: write metrics every N steps (each step has its row).
        tensorboard: write TensorBoard events too.
        telemetry: number of images to follow: whenever a step uses one, its drawn views, their costs and the kept ones
            are recorded (docs/telemetry.md); 0 records nothing.
        gallery: number of these whose small pictures are stored with the run and shown in TensorBoard with their boxes.
        show_channels: the channels that pictures of the run show, one or three, counted from 1 (3,2,1); by default
            RGB as it is, one channel in grey, else the first three.
        wandb: log to Weights & Biases too, in this project (needs the wandb extra).
    """

    data: str | None = None
    test_data: str | None = None
    recipe: str | None = None
    data_root: str = "data"
    download: bool = False
    image_column: str = "image"
    label_column: str = "label"
    tile: int = 0
    frames: Literal["first", "all"] = "first"
    epoch_images: int | None = None
    shuffle_bytes: int | None = None
    allow_pipe: bool = False
    channels: int | Literal["auto", "rgb"] = "auto"
    value_range: tuple[float, ...] | str | None = None
    pixels: dict[str, Any] | None = None
    out: str | None = None
    method: dict[str, Any] = field(default_factory=lambda: {"name": "simsiam"})
    plan: dict[str, Any] = field(default_factory=dict)
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    init: str | None = None
    extend: str | None = None
    extend_schedule: Literal["restart", "stretch"] | None = None
    views: int | list[int] | None = None
    policy: str = "hardest"
    min_contrast: float = 0.0
    select_from: float = 0.0
    select_until: float = 1.0
    scoring: Literal["fast", "exact"] = "fast"
    score_resolution: float | None = None
    score_network: Literal["student", "teacher", "teacher_targets"] | None = None
    score_every: int = 1
    score_token_keep: float | None = None
    score_depth: float = 1.0
    score_reuse: bool = True
    score_chunk: int = 0
    score_once: bool = False
    crops: str = "independent"
    colour: Literal["matrix", "exact"] = "matrix"
    image_size: int | None = None
    train_resolution: float = 1.0
    full_resolution_from: float = 0.75
    mean: float | tuple[float, ...] | Literal["auto"] | None = None
    std: float | tuple[float, ...] | Literal["auto"] | None = None
    batch_size: int | Literal["auto"] = 256
    grad_accumulation: int = 1
    epochs: int = 100
    seed: int = 0
    optimizer: str | None = None
    lr: float | None = None
    layer_decay: float = 1.0
    min_lr: float | None = None
    weight_decay: float | None = None
    weight_decay_end: float | None = None
    clip: float | None = None
    clip_mode: Literal["parameter", "all"] | None = None
    momentum: float | None = None
    warmup_epochs: float | None = None
    decay_bias_and_norm: bool | None = None
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Precision = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    deterministic: bool = False
    workers: int = 2
    decode_size: int | None = None
    max_batch_bytes: int = 1 << 30
    max_unreadable: float = 0.01
    in_memory: Literal["auto", "on", "off"] = "auto"
    checkpoint_steps: int = 0
    keep_epochs: int = 0
    max_nonfinite_steps: int = 10
    knn_epochs: int = 10
    knn_bank: int | None = None
    knn_test: Literal["leave_one_out", "tenth"] | None = None
    crop: float | None = None
    knn_k: int = 20
    knn_temperature: float = 0.07
    log_steps: int = 10
    tensorboard: bool = True
    telemetry: int = 2048
    gallery: int = 16
    show_channels: int | tuple[int, ...] | None = None
    wandb: str | None = None

    @property
    def images_per_step(self) -> int:
        """``batch_size`` as a number; raises TypeError while it is auto."""
        if self.batch_size == "auto":
            raise TypeError("batch_size is not resolved")
        return int(self.batch_size)
