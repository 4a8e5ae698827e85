// Where the runs come from: the data inside the document, or the program that serves it.

/** Gives every document of news to `take`, and says by `state` whether the program is there. */
export function connect(take, state) {
  const inside = JSON.parse(document.getElementById("data").textContent);
  if (inside) {
    state("report");
    take(inside);
    return;
  }
  const stream = new EventSource("/events");
  let fresh = true;
  stream.onopen = () => {
    fresh = true;
    state("connected");
  };
  stream.onerror = () => state("lost");
  stream.onmessage = (message) => {
    take(JSON.parse(message.data), fresh);
    fresh = false;
  };
}
