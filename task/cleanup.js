'use strict';
// After the job, whatever became of it, a step that was killed included.

require('./leftovers.js').removeLeftovers();
