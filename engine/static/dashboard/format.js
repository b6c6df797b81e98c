// Numbers, sizes and times as an operator reads them.

export const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 0.42, 7.1, 123, 12,345, 1.23 M. */
export function number(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${trim(value / 1e9, 2)} G`;
  if (size >= 1e6) return `${trim(value / 1e6, 2)} M`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return trim(value, size >= 10 ? 1 : 2);
}

/** A whole number, with all its digits. */
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : NONE);

export const perSecond = (value) => (known(value) ? `${number(value)}/s` : NONE);

export const percent = (value) => (known(value) ? `${trim(value, value < 10 ? 1 : 0)} %` : NONE);

/** Bytes, in powers of 1,024. */
export function bytes(value) {
  if (!known(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; Math.abs(value) >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${trim(value, unit && Math.abs(value) < 100 ? 1 : 0)} ${units[unit]}`;
}

export const milliseconds = (value) => (known(value) ? (value > 0 ? duration(value / 1000) : "0 ms") : NONE);

/** Seconds: 0.4 ms, 12 ms, 3.2 s, 4 min 10 s, 3 h 12 min, 2 d 4 h. */
export function duration(value) {
  if (!known(value)) return NONE;
  const seconds = Math.max(0, value);
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${trim(seconds * 1000, 2)} ms`;
  if (seconds < 1) return `${trim(seconds * 1000, seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 10) return `${trim(seconds, 1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return two(seconds, 60, "min", 1, "s");
  if (seconds < 86400) return two(seconds, 3600, "h", 60, "min");
  return two(seconds, 86400, "d", 3600, "h");
}

/** How long ago, in one unit: now, 12 s ago, 4 min ago, 3 h ago, 2 d ago. */
export function age(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return "now";
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([size]) => seconds >= size);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** Unix seconds as the local time of day, with the date where it is not today's. */
export function clock(unix) {
  if (!known(unix)) return NONE;
  const then = new Date(unix * 1000);
  const time = then.toLocaleTimeString("en-GB");
  return then.toDateString() === new Date().toDateString() ? time : `${then.toLocaleDateString("en-CA")} ${time}`;
}

function two(seconds, big, bigUnit, small, smallUnit) {
  const whole = Math.floor(seconds / big);
  const rest = Math.floor((seconds - whole * big) / small);
  return rest ? `${whole} ${bigUnit} ${rest} ${smallUnit}` : `${whole} ${bigUnit}`;
}

const trim = (value, digits) => String(Number(value.toFixed(digits)));
