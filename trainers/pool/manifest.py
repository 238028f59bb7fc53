"""Choosing the slices of a pool, once: the list lies beside the results of stage 1 and is read again afterwards."""

from collections.abc import Mapping
from dataclasses import replace

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.pool import PoolCase, PoolDataset, PoolManifest, digest_choice, read_pool
from samora_pipeline.errors import DataError
from samora_pipeline.parallel import map_cases, suggest_workers
from samora_pipeline.slices.pool import PoolScan, allot, choice_rule, content_digest, showing_slices, spread
from samora_pipeline.slices.store import CasePaths
from trainers.pool.datasets import preprocessing
from trainers.pool.pool import Pool, PoolMember, require_number


def pool_manifest(pool: Pool) -> PoolManifest:
    """Return the pool's list of slices, chosen now if it is not there yet; every rank calls this.

    Raises:
        DataError: ``E-POOL-03`` no slice shows anything, ``E-POOL-04`` and ``E-POOL-07`` the list or the store was
            changed, ``E-POOL-06`` too few slices show something, ``E-STORE-..`` a case is missing or damaged.
    """
    if distributed.is_main() and not pool.file.is_file():
        write_json(choose_slices(pool), pool.file)
    distributed.barrier()
    manifest = read_pool(pool.file)
    # The key names what the slices came from; this looks at what the store holds now.
    for member in pool.members:
        for case, entry in manifest.datasets[member.dataset.name].cases.items():
            if content_digest(member.dataset.cases[case], entry.slices) != entry.content_digest:
                raise DataError("E-POOL-07", case=case, pool=pool, found=f"other checksums in {member.dataset.slices}")
    return manifest


def draft_choice(pool: Pool) -> tuple[Pool, PoolManifest]:
    """The pool and its list of slices if that is there, else a pool of one case and its list; nothing is written."""
    if pool.file.is_file():
        return pool, read_pool(pool.file)
    member = pool.members[0]
    one = replace(member, cases=member.cases[:1])
    small = replace(pool, members=(one,), settings=replace(pool.settings, slices=None))
    return small, choose_slices(small)


def choose_slices(pool: Pool) -> PoolManifest:
    """Look through all cases of a pool and choose its slices by quota and seed."""
    shown = _look_through(pool)
    count = sum(map(len, shown.values()))
    if count == 0:
        raise DataError("E-POOL-03", found=f"{pool.stored} slices, and all of them show only air or nearly one value")
    require_number(pool.settings, count, "show something to learn from")
    sizes = {_name(key): len(indices) for key, indices in shown.items()}
    quota, shares = allot(sizes, pool.settings.slices, pool.seed)
    datasets = {
        member.dataset.name: PoolDataset(
            {**preprocessing(member.plans), "step": member.step},
            {
                case: _pool_case(member, case, shown[member.dataset.name, case], shares, pool.seed)
                for case in member.cases
            },
        )
        for member in pool.members
    }
    return PoolManifest(
        key=pool.record.key,
        seed=pool.seed,
        wanted=pool.settings.slices,
        quota=quota,
        intensity=pool.settings.intensity,
        rule=choice_rule(),
        excluded=pool.record.excluded,
        digest=digest_choice(datasets),
        datasets=datasets,
    )


def describe_choice(manifest: PoolManifest, pool: Pool) -> str:
    """The pool in one line for the log."""
    shown = sum(case.shown for dataset in manifest.datasets.values() for case in dataset.cases.values())
    quota = "all of them" if manifest.quota is None else f"{manifest.quota} or one more of each case that has them"
    return (
        f"pool: {manifest.slices} slices of {shown} that show something ({quota}, seed {manifest.seed}), "
        f"digest {manifest.digest[:12]}, listed in {pool.file}"
    )


def _look_through(pool: Pool) -> dict[tuple[str, str], tuple[int, ...]]:
    scans = {
        (member.dataset.name, case): PoolScan(member.dataset.slices, case, member.plans, member.step)
        for member in pool.members
        for case in member.cases
    }
    files = [CasePaths.of(scan.folder, scan.case).images for scan in scans.values()]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    items = [(_name(key), scan) for key, scan in scans.items()]
    outcomes = map_cases(showing_slices, items, suggest_workers(sizes), "choosing slices")
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return {key: outcome.result or () for key, outcome in zip(scans, outcomes, strict=True)}


def _pool_case(member: PoolMember, case: str, shown: tuple[int, ...], shares: Mapping[str, int], seed: int) -> PoolCase:
    record = member.dataset.cases[case]
    name = _name((member.dataset.name, case))
    slices = spread(shown, shares[name], seed, name)
    return PoolCase(
        source_digest=record.source_digest,
        voxel_digests=member.dataset.fingerprint.cases[case].voxel_digests,
        content_digest=content_digest(record, slices),
        stored=record.shape[0],
        shown=len(shown),
        slices=slices,
    )


def _name(key: tuple[str, str]) -> str:
    return "/".join(key)
