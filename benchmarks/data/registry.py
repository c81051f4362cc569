"""Which data sets there are: the files as their publishers distribute them, and how each family splits them.

Splits of "lsf" (long-sequence forecasting): ETT 12, 4 and 4 months of 30 days, the others 70, 10 and 20 %. Splits of
"pf" (probabilistic forecasting): the last 7 horizons of a day are the test part, as in Woo et al. 2024 (arXiv
2402.02592, C.2 and table 18), and windows follow one another without overlap. The validation part differs from
theirs: the 7 horizons before the test part, where they take one, since one day is too little to choose settings by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Split:
    """How long the parts are: whole numbers are steps, fractions are shares. `train` None: all before the others."""

    train: float | None
    validation: float
    test: float

    def ends(self, steps: int) -> tuple[int, int, int]:
        """The step after each part's last one, of a series of `steps` steps."""
        if isinstance(self.train, float):  # as the literature rounds: down, and the rest is for validation
            train, test = int(self.train * steps), int(self.test * steps)
            ends = (train, steps - test, steps)
        elif self.train is None:
            ends = (int(steps - self.test - self.validation), int(steps - self.test), steps)
        else:
            ends = (int(self.train), int(self.train + self.validation), int(self.train + self.validation + self.test))
        if not 0 < ends[0] < ends[1] < ends[2] <= steps:
            raise ValueError(f"{self} does not fit {steps} steps; give each part at least one step, within the series")
        return ends


@dataclass(frozen=True)
class RawFile:
    """A file as its publisher distributes it, and how to read it.

    digest: "md5:..." or "sha256:..."; None where no public source states it. shape: steps and variables once read.
    frequency, season: of the steps once read. time: its column; None: no column and no header. start: the rows are
    counted on from here, whatever the stamps say. rows, gather: the rows' frequency (where counted), and how they
    become steps ("sum", "mean"). missing: the number that stands for no value; the value before takes its place.
    loader: Darts' loader of exactly this file. bundled: it ships with the package.
    """

    name: str
    digest: str | None
    where: str
    shape: tuple[int, int] | None
    frequency: str
    season: int
    time: str | None = "date"
    time_format: str = "ISO8601"
    start: str | None = None
    rows: str | None = None
    gather: str | None = None
    missing: float | None = None
    loader: str | None = None
    bundled: bool = False


@dataclass(frozen=True)
class Entry:
    """A data set of one family. horizon: the prediction length that goes with the split, in steps; 0: none does."""

    file: RawFile
    split: Split
    horizon: int = 0


def _ett(name: str, md5: str, steps: int, frequency: str, season: int) -> RawFile:
    where = "https://github.com/zhouhaoyi/ETDataset"
    return RawFile(f"{name}.csv", f"md5:{md5}", where, (steps, 7), frequency, season, loader=f"{name}Dataset")


_TSLIB = "https://huggingface.co/datasets/thuml/Time-Series-Library"
_LAI = "https://github.com/laiguokun/multivariate-time-series-data"
_KAGGLE = "https://www.kaggle.com/datasets"

# Shapes: the files that were at hand, and the table of data sets in the documentation of github.com/microsoft/ProbTS.
# MD5 sums of ETT: the loaders of Darts 0.48.1.
ETTH1 = _ett("ETTh1", "8381763947c85f4be6ac456c508460d6", 17420, "h", 24)
ETTH2 = _ett("ETTh2", "51a229a3fc13579dd939364fefe9c7ab", 17420, "h", 24)
ETTM1 = _ett("ETTm1", "82d6bd89109c63d075d99c1077b33f38", 69680, "15min", 96)
ETTM2 = _ett("ETTm2", "7687e47825335860bf58bccb31be0c56", 69680, "15min", 96)
# Autoformer's file, which Time-Series-Library goes on distributing; Darts' WeatherDataset is another one. SHA-256: what
# public reproductions state, and the file at hand. One stamp is there twice and 9 are missing, but the literature takes
# its rows one after the other, and so do we: stamps after May 2020 are up to 80 minutes early.
WEATHER = RawFile(
    name="weather.csv",
    digest="sha256:34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
    where=f"{_TSLIB} (weather/weather.csv)",
    shape=(52696, 21),
    frequency="10min",
    season=144,
    start="2020-01-01 00:10",
)
# The station's -9999 says that nothing was measured. The LSF literature takes it for a number, and so does "lsf" here,
# to be comparable; in raw units, which "pf" has, it would drown all else.
JENA = replace(WEATHER, missing=-9999.0)
# Time-Series-Library's file too; Darts' ElectricityDataset is another one. SHA-256: the Git LFS pointer of
# github.com/gaasher/embedding_thesis, and what public reproductions state. Its stamps begin in July 2016, though the
# loads are those of 2012 to 2014.
ELECTRICITY = RawFile(
    name="electricity.csv",
    digest="sha256:7e45845d54c5219bad0ae6bc1b5316cf8ff9cead5d33fa998a5a51c2e4a497ad",
    where=f"{_TSLIB} (electricity/electricity.csv)",
    shape=(26304, 321),
    frequency="h",
    season=24,
)
# The files of Lai et al. 2018, which GluonTS serves as "electricity" and "solar-energy" and MOIRAI's paper evaluates.
# MD5 sums: the downloaders in icannotnamemyself/HSTGNN on GitHub (torch_timeseries/datasets). First stamps, and Solar's
# sum over the hour: GluonTS 0.17 (dataset/repository/_lstnet.py).
LAI_ELECTRICITY = RawFile(
    name="electricity.txt.gz",
    digest="md5:07d51dc39c404599ead932937985957b",
    where=f"{_LAI} (electricity)",
    shape=(26304, 321),
    frequency="h",
    season=24,
    time=None,
    start="2012-01-01",
)
LAI_SOLAR = RawFile(
    name="solar_AL.txt.gz",
    digest="md5:41ef7fdc958c2ca3fac9cd06d6227073",
    where=f"{_LAI} (solar-energy)",
    shape=(8760, 137),
    frequency="h",
    season=24,
    time=None,
    start="2006-01-01",
    rows="10min",
    gather="sum",
)
# No public source of a hash was found. Addresses, names, columns, form of the times, Istanbul's mean over the hour:
# github.com/SalesforceAIResearch/uni2ts (project/moirai-1/README.md and src/uni2ts/eval_util/_pf_dataset.py).
TURKEY = RawFile(
    name="power Generation and consumption.csv",
    digest=None,
    where=f"{_KAGGLE}/dharanikra/electrical-power-demand-in-turkey",
    shape=(26304, 18),
    frequency="h",
    season=24,
    time="Date_Time",
    time_format="%d.%m.%Y %H:%M",
)
ISTANBUL = RawFile(
    name="istanbul_traffic.csv",
    digest=None,
    where=f"{_KAGGLE}/leonardo00/istanbul-traffic-index",
    shape=(14244, 3),
    frequency="h",
    season=24,
    time="datetime",
    gather="mean",
)
SEA = RawFile(
    name="sea_surface_temperature.csv.gz",
    digest="sha256:529155ac773634b0dca439781a839487640db92e2bdb597e372a2b0ba0ffbff0",
    where="the package darts-msft",
    shape=(19249, 1),
    frequency="30min",
    season=48,
    bundled=True,
)

_SHARES = Split(0.7, 0.1, 0.2)


def _months(file: RawFile) -> Entry:
    return Entry(file, Split(*(months * 30 * file.season for months in (12, 4, 4))))


def _days(file: RawFile) -> Entry:
    """A day ahead, seven times over; the season is a day in all of these files. ETT so too, as uni2ts has it."""
    return Entry(file, Split(None, 7 * file.season, 7 * file.season), file.season)


REGISTRY: dict[str, dict[str, Entry]] = {
    "lsf": {
        "ETTh1": _months(ETTH1),
        "ETTh2": _months(ETTH2),
        "ETTm1": _months(ETTM1),
        "ETTm2": _months(ETTM2),
        "Weather": Entry(WEATHER, _SHARES),
        "Electricity": Entry(ELECTRICITY, _SHARES),
        "sea_temperature": Entry(SEA, _SHARES),
    },
    "pf": {
        "Electricity": _days(LAI_ELECTRICITY),
        "Solar": _days(LAI_SOLAR),
        "TurkeyPower": _days(TURKEY),
        "IstanbulTraffic": _days(ISTANBUL),
        "JenaWeather": _days(JENA),
        "ETTh1": _days(ETTH1),
        "ETTh2": _days(ETTH2),
        "ETTm1": _days(ETTM1),
        "ETTm2": _days(ETTM2),
        "sea_temperature": Entry(SEA, _SHARES, 48),
    },
}
