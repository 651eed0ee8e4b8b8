// Vectors of unit length put into groups: who is who, where nobody has a name.

/**
 * Group vectors so that those of a group are alike: the two groups whose members are most alike on average become one,
 * for as long as that average reaches `threshold`. One odd pair does not join two people, as it would if the best pair
 * decided. Takes time and memory with the square of their number.
 * @param {Float32Array[]} vectors
 * @param {number} threshold A cosine.
 * @returns {number[][]} Indices, the largest group first, then in the order they came.
 */
export function groupsOf(vectors, threshold) {
  const count = vectors.length;
  const alike = new Float32Array(count * count).fill(-Infinity);
  for (let i = 0; i < count; i += 1) {
    for (let j = 0; j < i; j += 1) alike[i * count + j] = alike[j * count + i] = cosine(vectors[i], vectors[j]);
  }
  const groups = vectors.map((_, index) => [index]);
  const nearest = new Int32Array(count);
  const findNearest = (row) => {
    let best = row === 0 ? Math.min(1, count - 1) : 0;
    for (let other = 0; other < count; other += 1) if (alike[row * count + other] > alike[row * count + best]) best = other;
    nearest[row] = best;
  };
  for (let row = 0; row < count; row += 1) findNearest(row);
  for (;;) {
    let first = -1;
    let best = threshold;
    for (let row = 0; row < count; row += 1) {
      const value = groups[row] ? alike[row * count + nearest[row]] : -Infinity;
      if (value >= best) [first, best] = [row, value];
    }
    if (first < 0) break;
    const second = nearest[first];
    const [ours, theirs] = [groups[first].length, groups[second].length];
    for (let other = 0; other < count; other += 1) {
      const mean = (ours * alike[first * count + other] + theirs * alike[second * count + other]) / (ours + theirs);
      alike[first * count + other] = alike[other * count + first] = other === first || other === second ? -Infinity : mean;
      alike[second * count + other] = alike[other * count + second] = -Infinity;
    }
    groups[first].push(...groups[second]);
    groups[second] = null;
    for (let row = 0; row < count; row += 1) {
      if (groups[row] && (row === first || nearest[row] === first || nearest[row] === second)) findNearest(row);
      else if (groups[row] && alike[row * count + first] > alike[row * count + nearest[row]]) nearest[row] = first;
    }
  }
  return groups.filter(Boolean).map((group) => group.sort((a, b) => a - b)).sort((a, b) => b.length - a.length || a[0] - b[0]);
}

/** Return the cosine of two vectors of unit length. */
export function cosine(first, second) {
  let sum = 0;
  for (let index = 0; index < first.length; index += 1) sum += first[index] * second[index];
  return sum;
}
