// Numbers and times as people read them: short, of steady width, never a false zero.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

// count: 0.4, 12.5, 980, 24,000, 1.2M.
export function count(n) {
  if (n == null) return "–";
  if (Math.abs(n) >= 100_000) return short.format(n);
  return Math.abs(n) < 100 ? tenths.format(n) : whole.format(n);
}

export const exact = (n) => (n == null ? "–" : whole.format(n));

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(n) {
  if (n == null) return "–";
  let unit = 0;
  while (Math.abs(n) >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || Math.abs(n) >= 100 ? whole.format(n) : tenths.format(n)} ${UNITS[unit]}`;
}

export function millis(ms) {
  if (ms == null) return "–";
  if (ms >= 1000) return `${tenths.format(ms / 1000)} s`;
  if (ms >= 100) return `${whole.format(ms)} ms`;
  return `${ms < 1 ? Number(ms.toPrecision(2)) : tenths.format(ms)} ms`;
}

// lasting: 12 s, 4 min, 3 h 5 min, 12 d 4 h.
export function lasting(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export const plural = (n, one, many = `${one}s`) => `${exact(n)} ${n === 1 ? one : many}`;

const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const SECOND = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// moment is a time of day, with the day if that is not today.
export function moment(ms) {
  const today = new Date().toDateString() === new Date(ms).toDateString();
  return today ? SECOND.format(ms) : `${DAY.format(ms)} ${SECOND.format(ms)}`;
}
