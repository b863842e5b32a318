/**
 * Calls that must not fail.
 *
 * A library calls listeners in the middle of its own work, and its internals change between
 * releases. Neither may cost a call, so what goes wrong is a warning.
 *
 * Invariant: `safely` never throws.
 */
export function safely(call: () => void): void {
  try {
    call();
  } catch (error) {
    console.warn(`callsight: ${error}`);
  }
}
